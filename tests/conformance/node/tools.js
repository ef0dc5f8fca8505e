// A tool that the model has to call, run by OpenAI's own client: node tools.js http://127.0.0.1:8080/v1
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: process.env.WEFT_API_KEY ?? "none", maxRetries: 0 });
const [model] = (await client.models.list()).data;
const weather = {
  name: "get_weather",
  description: "The weather in a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string", maxLength: 20 } },
    required: ["city"],
    additionalProperties: false,
  },
  parse: JSON.parse,
  function: ({ city }) => {
    console.log(`the weather in ${city}`);
    return "Sunny, 25 degrees";
  },
};
const runner = client.chat.completions.runTools({
  model: model.id,
  messages: [{ role: "user", content: "How is the weather in Rome?" }],
  tools: [{ type: "function", function: weather }],
  tool_choice: { type: "function", function: { name: "get_weather" } },
  temperature: 0,
  max_tokens: 64,
  stream: true,
});
console.log(await runner.finalFunctionToolCallResult());
try {
  await client.responses.create({ model: model.id, input: "hello" });
} catch (error) {
  if (!(error instanceof OpenAI.NotFoundError)) throw error;
  console.log(`${error.status} ${error.code}`);
}

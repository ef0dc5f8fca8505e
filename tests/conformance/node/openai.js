// The same by OpenAI's own client: node openai.js http://127.0.0.1:8080/v1 "Why is the sky blue?"
import OpenAI from "openai";

const [baseURL, question] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: process.env.WEFT_API_KEY ?? "none", maxRetries: 0 });
const [model] = (await client.models.list()).data;
const stream = await client.chat.completions.create({
  model: model.id,
  messages: [{ role: "user", content: question }],
  temperature: 0,
  max_tokens: 128,
  stream: true,
  stream_options: { include_usage: true },
});
let reason;
for await (const { choices, usage } of stream) {
  for (const { delta, finish_reason } of choices) {
    if (delta.content) process.stdout.write(delta.content);
    reason = finish_reason ?? reason;
  }
  if (usage) console.log(`\n${reason}, ${usage.prompt_tokens} + ${usage.completion_tokens} tokens`);
}
const { data } = await client.embeddings.create({ model: model.id, input: [question] });
console.log(`${data[0].embedding.length} numbers`);
try {
  await client.chat.completions.create({ model: model.id, messages: [], temperature: -1 });
} catch (error) {
  if (!(error instanceof OpenAI.BadRequestError)) throw error;
  console.log(`${error.status} ${error.param}: ${error.message}`);
}

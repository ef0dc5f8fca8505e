// Asks Weft a question and prints the answer while it comes: node chat.js 127.0.0.1:50051 "Why is the sky blue?"
import grpc from "@grpc/grpc-js";
import { weft } from "./weft.js";

const [address, question] = process.argv.slice(2);
const gateway = new weft.gateway.v1.GatewayService(address, grpc.credentials.createInsecure());
const call = gateway.Chat(
  {
    messages: [{ role: "ROLE_USER", content: question }],
    options: { sampling: { temperature: 0 }, stop: { max_tokens: 128 } },
  },
  // The deadline covers the whole answer, not only its beginning.
  { deadline: Date.now() + 60_000 },
);
// An error of the call ends the loop, and the program.
for await (const { delta, finished } of call) {
  if (delta) process.stdout.write(delta.text);
  if (finished) {
    const { prompt_tokens, completion_tokens } = finished.usage;
    console.log(`\n${finished.reason}, ${prompt_tokens} + ${completion_tokens} tokens`);
  }
}
gateway.close();

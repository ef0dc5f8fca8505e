// Gives an answer less time than it needs: node deadline.js 127.0.0.1:50051
import grpc from "@grpc/grpc-js";
import { weft } from "./weft.js";

const [address] = process.argv.slice(2);
const gateway = new weft.gateway.v1.GatewayService(address, grpc.credentials.createInsecure());
const call = gateway.Chat(
  {
    messages: [{ role: "ROLE_USER", content: "Tell me everything." }],
    options: { stop: { max_tokens: 4000, ignore_eos: true } },
  },
  // It travels with the call (`grpc-timeout`), so that no service works on when nobody waits any more.
  { deadline: Date.now() + 2_000 },
);
try {
  // What came before the end of the time stands.
  for await (const { delta } of call) process.stdout.write(delta?.text ?? "");
  throw new Error("the answer came in time");
} catch (error) {
  if (error.code !== grpc.status.DEADLINE_EXCEEDED) throw error;
  console.log("\nDEADLINE_EXCEEDED");
}
gateway.close();

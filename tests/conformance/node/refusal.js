// Asks for what cannot be, and reads why not: node refusal.js 127.0.0.1:50051
import grpc from "@grpc/grpc-js";
import { decode, weft } from "./weft.js";

const [address] = process.argv.slice(2);

/** Prints what a program can read of an error: which fields are wrong, when to come again, and why. */
function explain(error) {
  console.log(`${grpc.status[error.code]}: ${error.details}`);
  const [status] = error.metadata.get("grpc-status-details-bin");
  for (const { type_url, value } of decode("google.rpc.Status", status).details) {
    const type = type_url.split("/").at(-1);
    const detail = decode(type, value);
    if (type === "google.rpc.BadRequest") {
      for (const { field, description } of detail.field_violations) console.log(`field ${field}: ${description}`);
    } else if (type === "google.rpc.RetryInfo") {
      const { seconds, nanos } = detail.retry_delay;
      console.log(`retry after ${Number(seconds) * 1000 + nanos / 1e6} ms`);
    } else if (type === "google.rpc.ErrorInfo") {
      console.log(`reason ${detail.domain}/${detail.reason}: ${JSON.stringify(detail.metadata)}`);
    }
  }
}

const gateway = new weft.gateway.v1.GatewayService(address, grpc.credentials.createInsecure());
const call = gateway.Chat(
  {
    messages: [{ role: "ROLE_USER", content: "Hello!" }],
    options: { sampling: { temperature: -1 }, stop: { max_tokens: 0 } },
  },
  { deadline: Date.now() + 10_000 },
);
try {
  for await (const _ of call);
  throw new Error("it was accepted");
} catch (error) {
  if (error.code === undefined) throw error;
  explain(error);
}
gateway.close();

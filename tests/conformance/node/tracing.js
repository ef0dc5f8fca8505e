// Joins Weft's spans to a trace of its own, and finds it in Jaeger: node tracing.js 127.0.0.1:50051 http://127.0.0.1:16686
//
// With OpenTelemetry in your program, @opentelemetry/instrumentation-grpc sends the header by itself.
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import { weft } from "./weft.js";

const [address, jaeger] = process.argv.slice(2);
const services = ["weft-gateway", "weft-tokenizer", "weft-safety", "weft-inference"];

/** Asks as a part of the caller's trace (https://www.w3.org/TR/trace-context/). */
async function chat(traceparent) {
  const gateway = new weft.gateway.v1.GatewayService(address, grpc.credentials.createInsecure());
  const metadata = new grpc.Metadata();
  metadata.set("traceparent", traceparent);
  const request = { messages: [{ role: "ROLE_USER", content: "Hello!" }], options: { stop: { max_tokens: 8 } } };
  for await (const _ of gateway.Chat(request, metadata, { deadline: Date.now() + 60_000 }));
  gateway.close();
  console.log("traceparent", traceparent);
}

/** Which services took part in a trace; none, while Jaeger does not know it. */
async function servicesOf(traceId) {
  const response = await fetch(`${jaeger}/api/traces/${traceId}`);
  const { data } = await response.json();
  return (data ?? []).flatMap(({ processes }) => Object.values(processes)).map(({ serviceName }) => serviceName);
}

/** Waits until Jaeger knows the trace from the gateway down to inference: services send their spans in batches. */
async function find(traceId) {
  for (const end = Date.now() + 30_000; Date.now() < end; await sleep(100)) {
    const found = await servicesOf(traceId);
    if (services.every((service) => found.includes(service))) {
      console.log("all four services are in it");
      return;
    }
  }
  throw new Error(`trace ${traceId} is not in Jaeger, or not whole`);
}

const traceId = randomBytes(16).toString("hex");
await chat(`00-${traceId}-${randomBytes(8).toString("hex")}-01`);
await find(traceId);

// Loses interest in an answer, and sees that the engine does too: node cancel.js 127.0.0.1:50051 127.0.0.1:50062
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import { weft } from "./weft.js";

const [address, engineAddress] = process.argv.slice(2);

/** Cancels a call after five pieces of its answer. */
async function loseInterest() {
  const gateway = new weft.gateway.v1.GatewayService(address, grpc.credentials.createInsecure());
  const call = gateway.Chat(
    {
      messages: [{ role: "ROLE_USER", content: "Tell me everything." }],
      options: { stop: { max_tokens: 4000, ignore_eos: true } },
    },
    { deadline: Date.now() + 60_000 },
  );
  let pieces = 0;
  try {
    for await (const { delta } of call) {
      if (!delta) continue;
      process.stdout.write(delta.text);
      pieces += 1;
      // Everything behind the call is dropped.
      if (pieces === 5) call.cancel();
    }
    throw new Error("the answer came to its end");
  } catch (error) {
    if (error.code !== grpc.status.CANCELLED) throw error;
    console.log("\nCANCELLED");
  }
  gateway.close();
}

/** Waits until the engine works on nothing and all of its KV cache is free. */
async function seeBlocksFree() {
  const engine = new weft.inference.v1.InferenceService(engineAddress, grpc.credentials.createInsecure());
  const status = promisify(engine.GetEngineStatus.bind(engine));
  const end = Date.now() + 10_000;
  for (;;) {
    const now = await status({});
    if (now.running === 0 && now.kv_blocks_free === now.kv_blocks_total) {
      console.log(`all ${now.kv_blocks_total} blocks are free`);
      break;
    }
    if (Date.now() > end) throw new Error(`the engine is not idle: ${JSON.stringify(now)}`);
    await sleep(10);
  }
  engine.close();
}

await loseInterest();
await seeBlocksFree();

// Weft's services, loaded from its contracts: what the examples beside this file import.
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import googleProtos from "google-proto-files";

const contracts = fileURLToPath(new URL("../../../proto", import.meta.url));
const definition = protoLoader.loadSync(
  ["weft/gateway/v1/gateway.proto", "weft/inference/v1/inference.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"],
  // Fields as the contracts spell them, enums by name, numbers of 64 bits as text, and 0 and "" where nothing is set.
  { includeDirs: [contracts, googleProtos.getProtoPath("..")], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true },
);
export const { weft } = grpc.loadPackageDefinition(definition);

/** Decodes a message of google.rpc: `decode("google.rpc.Status", bytes)`. */
export const decode = (type, bytes) => definition[type].deserialize(bytes);

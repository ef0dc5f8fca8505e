package example;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.SecureRandom;
import java.time.Instant;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import weft.common.v1.Chat.ChatMessage;
import weft.common.v1.Chat.Role;
import weft.common.v1.Generation.StopConditions;
import weft.gateway.v1.Gateway.ChatRequest;
import weft.gateway.v1.Gateway.GenerationOptions;
import weft.gateway.v1.GatewayServiceGrpc;

/**
 * Joins Weft's spans to a trace of its own, and finds it in Jaeger:
 * {@code Tracing 127.0.0.1:50051 http://127.0.0.1:16686}.
 *
 * <p>With OpenTelemetry's agent in your program, the header is sent by itself.
 */
public final class Tracing {
    private static final Set<String> SERVICES =
        Set.of("weft-gateway", "weft-tokenizer", "weft-safety", "weft-inference");

    public static void main(String[] arguments) throws IOException, InterruptedException {
        String traceId = randomHex(16);
        chat(arguments[0], "00-" + traceId + "-" + randomHex(8) + "-01");
        find(arguments[1], traceId);
    }

    /** Asks as a part of the caller's trace (https://www.w3.org/TR/trace-context/). */
    private static void chat(String address, String traceparent) {
        ManagedChannel channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
        Metadata headers = new Metadata();
        headers.put(Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER), traceparent);
        ChatRequest request = ChatRequest.newBuilder()
            .addMessages(ChatMessage.newBuilder().setRole(Role.ROLE_USER).setContent("Hello!"))
            .setOptions(GenerationOptions.newBuilder().setStop(StopConditions.newBuilder().setMaxTokens(8)))
            .build();
        GatewayServiceGrpc.newBlockingStub(channel)
            .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers))
            .withDeadlineAfter(60, TimeUnit.SECONDS)
            .chat(request)
            .forEachRemaining(response -> { });
        channel.shutdown();
        System.out.println("traceparent " + traceparent);
    }

    /** Waits until Jaeger knows the trace from the gateway down to inference: services send their spans in batches. */
    private static void find(String jaeger, String traceId) throws IOException, InterruptedException {
        URI address = URI.create(jaeger + "/api/traces/" + traceId);
        for (Instant end = Instant.now().plusSeconds(30); Instant.now().isBefore(end); Thread.sleep(100)) {
            if (servicesOf(address).containsAll(SERVICES)) {
                System.out.println("all four services are in it");
                return;
            }
        }
        throw new IllegalStateException("trace " + traceId + " is not in Jaeger, or not whole");
    }

    /** Which services took part in a trace; none, while Jaeger does not know it. */
    private static Set<String> servicesOf(URI trace) throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(trace).build();
        String body = HttpClient.newHttpClient().send(request, BodyHandlers.ofString()).body();
        JsonElement data = JsonParser.parseString(body).getAsJsonObject().get("data");
        Set<String> services = new HashSet<>();
        if (data != null && data.isJsonArray()) {
            for (JsonElement found : data.getAsJsonArray()) {
                JsonObject processes = found.getAsJsonObject().getAsJsonObject("processes");
                processes.asMap().values().forEach(process ->
                    services.add(process.getAsJsonObject().get("serviceName").getAsString()));
            }
        }
        return services;
    }

    private static String randomHex(int bytes) {
        byte[] random = new byte[bytes];
        new SecureRandom().nextBytes(random);
        return HexFormat.of().formatHex(random);
    }
}

package example;

import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.Iterator;
import java.util.concurrent.TimeUnit;
import weft.common.v1.Chat.ChatMessage;
import weft.common.v1.Chat.Role;
import weft.common.v1.Generation.StopConditions;
import weft.gateway.v1.Gateway.ChatRequest;
import weft.gateway.v1.Gateway.ChatResponse;
import weft.gateway.v1.Gateway.GenerationOptions;
import weft.gateway.v1.GatewayServiceGrpc;
import weft.inference.v1.Inference.GetEngineStatusRequest;
import weft.inference.v1.Inference.GetEngineStatusResponse;
import weft.inference.v1.InferenceServiceGrpc;

/** Loses interest in an answer, and sees that the engine does too: {@code Cancel 127.0.0.1:50051 127.0.0.1:50062}. */
public final class Cancel {
    public static void main(String[] arguments) throws InterruptedException {
        loseInterest(arguments[0]);
        seeBlocksFree(arguments[1]);
    }

    /** Cancels a call after five pieces of its answer. */
    private static void loseInterest(String address) {
        ManagedChannel channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
        ChatRequest request = ChatRequest.newBuilder()
            .addMessages(ChatMessage.newBuilder().setRole(Role.ROLE_USER).setContent("Tell me everything."))
            .setOptions(GenerationOptions.newBuilder()
                .setStop(StopConditions.newBuilder().setMaxTokens(4000).setIgnoreEos(true)))
            .build();
        // A blocking call is cancelled through the context that it is made in.
        Context.CancellableContext context = Context.current().withCancellation();
        try {
            context.run(() -> readFivePieces(channel, request, context));
            throw new IllegalStateException("the answer came to its end");
        } catch (StatusRuntimeException error) {
            if (error.getStatus().getCode() != Status.Code.CANCELLED) {
                throw error;
            }
            System.out.println("\nCANCELLED");
        } finally {
            channel.shutdown();
        }
    }

    private static void readFivePieces(ManagedChannel channel, ChatRequest request, Context.CancellableContext context) {
        Iterator<ChatResponse> responses = GatewayServiceGrpc.newBlockingStub(channel)
            .withDeadlineAfter(60, TimeUnit.SECONDS)
            .chat(request);
        int pieces = 0;
        while (responses.hasNext()) {
            ChatResponse response = responses.next();
            if (response.hasDelta()) {
                System.out.print(response.getDelta().getText());
                pieces++;
            }
            if (pieces == 5) {
                // Everything behind the call is dropped.
                context.cancel(null);
            }
        }
    }

    /** Waits until the engine works on nothing and all of its KV cache is free. */
    private static void seeBlocksFree(String address) throws InterruptedException {
        ManagedChannel channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
        try {
            var engine = InferenceServiceGrpc.newBlockingStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS);
            while (true) {
                // Out of time, this throws.
                GetEngineStatusResponse now = engine.getEngineStatus(GetEngineStatusRequest.getDefaultInstance());
                if (now.getRunning() == 0 && now.getKvBlocksFree() == now.getKvBlocksTotal()) {
                    System.out.printf("all %d blocks are free%n", now.getKvBlocksTotal());
                    return;
                }
                Thread.sleep(10);
            }
        } finally {
            channel.shutdown();
        }
    }
}

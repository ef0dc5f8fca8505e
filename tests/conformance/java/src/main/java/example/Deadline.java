package example;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.concurrent.TimeUnit;
import weft.common.v1.Chat.ChatMessage;
import weft.common.v1.Chat.Role;
import weft.common.v1.Generation.StopConditions;
import weft.gateway.v1.Gateway.ChatRequest;
import weft.gateway.v1.Gateway.GenerationOptions;
import weft.gateway.v1.GatewayServiceGrpc;

/** Gives an answer less time than it needs: {@code Deadline 127.0.0.1:50051}. */
public final class Deadline {
    public static void main(String[] arguments) {
        ManagedChannel channel = Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
        ChatRequest request = ChatRequest.newBuilder()
            .addMessages(ChatMessage.newBuilder().setRole(Role.ROLE_USER).setContent("Tell me everything."))
            .setOptions(GenerationOptions.newBuilder()
                .setStop(StopConditions.newBuilder().setMaxTokens(4000).setIgnoreEos(true)))
            .build();
        try {
            GatewayServiceGrpc.newBlockingStub(channel)
                // It travels with the call (grpc-timeout), so that no service works on when nobody waits any more.
                .withDeadlineAfter(2, TimeUnit.SECONDS)
                .chat(request)
                // What came before the end of the time stands.
                .forEachRemaining(response -> System.out.print(response.getDelta().getText()));
            throw new IllegalStateException("the answer came in time");
        } catch (StatusRuntimeException error) {
            if (error.getStatus().getCode() != Status.Code.DEADLINE_EXCEEDED) {
                throw error;
            }
            System.out.println("\nDEADLINE_EXCEEDED");
        } finally {
            channel.shutdown();
        }
    }
}

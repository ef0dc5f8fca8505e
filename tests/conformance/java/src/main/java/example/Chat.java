package example;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import java.util.Iterator;
import java.util.concurrent.TimeUnit;
import weft.common.v1.Chat.ChatMessage;
import weft.common.v1.Chat.Role;
import weft.common.v1.Generation.SamplingParams;
import weft.common.v1.Generation.StopConditions;
import weft.common.v1.Generation.Usage;
import weft.gateway.v1.Gateway.ChatRequest;
import weft.gateway.v1.Gateway.ChatResponse;
import weft.gateway.v1.Gateway.GenerationOptions;
import weft.gateway.v1.GatewayServiceGrpc;

/** Asks Weft a question and prints the answer while it comes: {@code Chat 127.0.0.1:50051 "Why is the sky blue?"}. */
public final class Chat {
    public static void main(String[] arguments) {
        String address = arguments[0];
        String question = arguments[1];
        ManagedChannel channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
        ChatRequest request = ChatRequest.newBuilder()
            .addMessages(ChatMessage.newBuilder().setRole(Role.ROLE_USER).setContent(question))
            .setOptions(GenerationOptions.newBuilder()
                .setSampling(SamplingParams.newBuilder().setTemperature(0))
                .setStop(StopConditions.newBuilder().setMaxTokens(128)))
            .build();
        Iterator<ChatResponse> responses = GatewayServiceGrpc.newBlockingStub(channel)
            // The deadline covers the whole answer, not only its beginning.
            .withDeadlineAfter(60, TimeUnit.SECONDS)
            .chat(request);
        // An error of the call is a StatusRuntimeException, which ends the program.
        responses.forEachRemaining(Chat::print);
        channel.shutdown();
    }

    private static void print(ChatResponse response) {
        switch (response.getEventCase()) {
            case DELTA -> System.out.print(response.getDelta().getText());
            case FINISHED -> {
                Usage usage = response.getFinished().getUsage();
                System.out.printf("%n%s, %d + %d tokens%n",
                    response.getFinished().getReason(), usage.getPromptTokens(), usage.getCompletionTokens());
            }
            default -> { }
        }
    }
}

package example;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.concurrent.TimeUnit;
import weft.common.v1.Chat.ChatMessage;
import weft.common.v1.Chat.Role;
import weft.common.v1.Generation.SamplingParams;
import weft.common.v1.Generation.StopConditions;
import weft.gateway.v1.Gateway.ChatRequest;
import weft.gateway.v1.Gateway.GenerationOptions;
import weft.gateway.v1.GatewayServiceGrpc;

/** Asks for what cannot be, and reads why not: {@code Refusal 127.0.0.1:50051}. */
public final class Refusal {
    public static void main(String[] arguments) throws InvalidProtocolBufferException {
        ManagedChannel channel = Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
        ChatRequest request = ChatRequest.newBuilder()
            .addMessages(ChatMessage.newBuilder().setRole(Role.ROLE_USER).setContent("Hello!"))
            .setOptions(GenerationOptions.newBuilder()
                .setSampling(SamplingParams.newBuilder().setTemperature(-1))
                .setStop(StopConditions.newBuilder().setMaxTokens(0)))
            .build();
        try {
            GatewayServiceGrpc.newBlockingStub(channel)
                .withDeadlineAfter(10, TimeUnit.SECONDS)
                .chat(request)
                .forEachRemaining(response -> { });
            throw new IllegalStateException("it was accepted");
        } catch (StatusRuntimeException error) {
            explain(error);
        } finally {
            channel.shutdown();
        }
    }

    /** Prints what a program can read of an error: which fields are wrong, when to come again, and why. */
    private static void explain(StatusRuntimeException error) throws InvalidProtocolBufferException {
        System.out.printf("%s: %s%n", error.getStatus().getCode(), error.getStatus().getDescription());
        for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
            if (detail.is(BadRequest.class)) {
                detail.unpack(BadRequest.class).getFieldViolationsList().forEach(violation ->
                    System.out.printf("field %s: %s%n", violation.getField(), violation.getDescription()));
            } else if (detail.is(RetryInfo.class)) {
                Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
                System.out.printf("retry after %d ms%n", delay.getSeconds() * 1000 + delay.getNanos() / 1_000_000);
            } else if (detail.is(ErrorInfo.class)) {
                ErrorInfo info = detail.unpack(ErrorInfo.class);
                System.out.printf("reason %s/%s: %s%n", info.getDomain(), info.getReason(), info.getMetadataMap());
            }
        }
    }
}

// Asks Weft a question and prints the answer while it comes: go run ./chat 127.0.0.1:50051 "Why is the sky blue?"
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	commonv1 "weft.example/clients/gen/weft/common/v1"
	gatewayv1 "weft.example/clients/gen/weft/gateway/v1"
)

func main() {
	if err := chat(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func chat(address, question string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	// The deadline covers the whole answer, not only its beginning.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := gatewayv1.NewGatewayServiceClient(connection).Chat(ctx, &gatewayv1.ChatRequest{
		Messages: []*commonv1.ChatMessage{{Role: commonv1.Role_ROLE_USER, Content: question}},
		Options: &gatewayv1.GenerationOptions{
			Sampling: &commonv1.SamplingParams{Temperature: proto.Float32(0)},
			Stop:     &commonv1.StopConditions{MaxTokens: proto.Uint32(128)},
		},
	})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch event := response.Event.(type) {
		case *gatewayv1.ChatResponse_Delta:
			fmt.Print(event.Delta.Text)
		case *gatewayv1.ChatResponse_Finished:
			usage := event.Finished.Usage
			fmt.Printf("\n%s, %d + %d tokens\n", event.Finished.Reason, usage.PromptTokens, usage.CompletionTokens)
		}
	}
}

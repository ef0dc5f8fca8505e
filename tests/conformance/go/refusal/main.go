// Asks for what cannot be, and reads why not: go run ./refusal 127.0.0.1:50051
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "weft.example/clients/gen/weft/common/v1"
	gatewayv1 "weft.example/clients/gen/weft/gateway/v1"
)

func main() {
	if err := beRefused(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func beRefused(address string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := gatewayv1.NewGatewayServiceClient(connection).Chat(ctx, &gatewayv1.ChatRequest{
		Messages: []*commonv1.ChatMessage{{Role: commonv1.Role_ROLE_USER, Content: "Hello!"}},
		Options: &gatewayv1.GenerationOptions{
			Sampling: &commonv1.SamplingParams{Temperature: proto.Float32(-1)},
			Stop:     &commonv1.StopConditions{MaxTokens: proto.Uint32(0)},
		},
	})
	if err == nil {
		// Of a stream, the first message tells whether the call was accepted.
		_, err = stream.Recv()
	}
	if err == nil {
		return errors.New("it was accepted")
	}
	explain(status.Convert(err))
	return nil
}

// explain prints what a program can read of an error: which fields are wrong, when to come again, and why.
func explain(refusal *status.Status) {
	fmt.Printf("%s: %s\n", refusal.Code(), refusal.Message())
	for _, detail := range refusal.Details() {
		switch detail := detail.(type) {
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fmt.Printf("field %s: %s\n", violation.Field, violation.Description)
			}
		case *errdetails.RetryInfo:
			fmt.Printf("retry after %d ms\n", detail.RetryDelay.AsDuration().Milliseconds())
		case *errdetails.ErrorInfo:
			fmt.Printf("reason %s/%s: %v\n", detail.Domain, detail.Reason, detail.Metadata)
		}
	}
}

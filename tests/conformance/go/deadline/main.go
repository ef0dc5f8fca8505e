// Gives an answer less time than it needs: go run ./deadline 127.0.0.1:50051
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	commonv1 "weft.example/clients/gen/weft/common/v1"
	gatewayv1 "weft.example/clients/gen/weft/gateway/v1"
)

func main() {
	if err := runOutOfTime(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func runOutOfTime(address string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	// It travels with the call (`grpc-timeout`), so that no service works on when nobody waits any more.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	stream, err := gatewayv1.NewGatewayServiceClient(connection).Chat(ctx, &gatewayv1.ChatRequest{
		Messages: []*commonv1.ChatMessage{{Role: commonv1.Role_ROLE_USER, Content: "Tell me everything."}},
		Options: &gatewayv1.GenerationOptions{
			Stop: &commonv1.StopConditions{MaxTokens: proto.Uint32(4000), IgnoreEos: true},
		},
	})
	for err == nil {
		var response *gatewayv1.ChatResponse
		if response, err = stream.Recv(); err == nil {
			fmt.Print(response.GetDelta().GetText())
		}
	}
	// What came before the end of the time stands.
	if status.Code(err) != codes.DeadlineExceeded {
		return fmt.Errorf("not out of time: %w", err)
	}
	fmt.Println("\nDEADLINE_EXCEEDED")
	return nil
}

// Loses interest in an answer, and sees that the engine does too: go run ./cancel 127.0.0.1:50051 127.0.0.1:50062
package main

import (
	"context"
	"errors"
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
	inferencev1 "weft.example/clients/gen/weft/inference/v1"
)

func main() {
	if err := loseInterest(os.Args[1]); err != nil {
		log.Fatal(err)
	}
	if err := seeBlocksFree(os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

// loseInterest cancels a call after five pieces of its answer.
func loseInterest(address string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := gatewayv1.NewGatewayServiceClient(connection).Chat(ctx, &gatewayv1.ChatRequest{
		Messages: []*commonv1.ChatMessage{{Role: commonv1.Role_ROLE_USER, Content: "Tell me everything."}},
		Options: &gatewayv1.GenerationOptions{
			Stop: &commonv1.StopConditions{MaxTokens: proto.Uint32(4000), IgnoreEos: true},
		},
	})
	if err != nil {
		return err
	}
	for pieces := 0; pieces < 5; {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if delta := response.GetDelta(); delta != nil {
			fmt.Print(delta.Text)
			pieces++
		}
	}
	// Cancelling the context is all: everything behind the call is dropped.
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Canceled {
		return fmt.Errorf("not cancelled: %w", err)
	}
	fmt.Println("\nCANCELLED")
	return nil
}

// seeBlocksFree waits until the engine works on nothing and all of its KV cache is free.
func seeBlocksFree(address string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	engine := inferencev1.NewInferenceServiceClient(connection)
	for {
		now, err := engine.GetEngineStatus(ctx, &inferencev1.GetEngineStatusRequest{})
		if err != nil {
			return errors.Join(errors.New("the engine is not idle"), err)
		}
		if now.Running == 0 && now.KvBlocksFree == now.KvBlocksTotal {
			fmt.Printf("all %d blocks are free\n", now.KvBlocksTotal)
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

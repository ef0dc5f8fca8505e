// Joins Weft's spans to a trace of its own, and finds it in Jaeger: go run ./tracing 127.0.0.1:50051 http://127.0.0.1:16686
//
// With OpenTelemetry in your program, otelgrpc.NewClientHandler sends the header by itself.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	commonv1 "weft.example/clients/gen/weft/common/v1"
	gatewayv1 "weft.example/clients/gen/weft/gateway/v1"
)

func main() {
	var trace, span [16]byte
	rand.Read(trace[:])
	rand.Read(span[:])
	traceID, spanID := fmt.Sprintf("%x", trace), fmt.Sprintf("%x", span[:8])
	if err := chat(os.Args[1], fmt.Sprintf("00-%s-%s-01", traceID, spanID)); err != nil {
		log.Fatal(err)
	}
	if err := find(os.Args[2], traceID); err != nil {
		log.Fatal(err)
	}
}

// chat asks as a part of the caller's trace (https://www.w3.org/TR/trace-context/).
func chat(address, traceparent string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", traceparent)
	stream, err := gatewayv1.NewGatewayServiceClient(connection).Chat(ctx, &gatewayv1.ChatRequest{
		Messages: []*commonv1.ChatMessage{{Role: commonv1.Role_ROLE_USER, Content: "Hello!"}},
		Options:  &gatewayv1.GenerationOptions{Stop: &commonv1.StopConditions{MaxTokens: proto.Uint32(8)}},
	})
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	fmt.Println("traceparent", traceparent)
	return nil
}

// find waits until Jaeger knows the trace from the gateway down to inference: services send their spans in batches.
func find(jaeger, traceID string) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		services, err := servicesOf(jaeger + "/api/traces/" + traceID)
		if err != nil {
			return err
		}
		if services["weft-gateway"] && services["weft-tokenizer"] && services["weft-safety"] && services["weft-inference"] {
			fmt.Println("all four services are in it")
			return nil
		}
	}
	return fmt.Errorf("trace %s is not in Jaeger, or not whole", traceID)
}

// servicesOf reads which services took part in a trace; none, while Jaeger does not know it.
func servicesOf(url string) (map[string]bool, error) {
	response, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var found struct {
		Data []struct {
			Processes map[string]struct {
				ServiceName string `json:"serviceName"`
			} `json:"processes"`
		} `json:"data"`
	}
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		return nil, err
	}
	services := map[string]bool{}
	for _, trace := range found.Data {
		for _, process := range trace.Processes {
			services[process.ServiceName] = true
		}
	}
	return services, nil
}

package main

import (
	"encoding/json"
	"fmt"

	"github.com/Shopify/sarama"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/apipb"
)

const (
	correlationID  = "_ctx_correlation_id"
	locale         = "_ctx_locale"
	userKey        = "_ctx_user"
	replyChannel   = "_reply_channel"
	payloadEncoder = "_payload_encoder"
	rootID         = "HEXA_ROOT_EVENT_ID"
	rootAction     = "HEXA_ROOT_EVENT_HANDLER_ACTION_NAME"
)

// User is written with its keys in order and <, > and & escaped, as json.Marshal does.
type User struct {
	Email      string   `json:"_user_email"`
	Identifier string   `json:"_user_identifier"`
	IsActive   bool     `json:"_user_is_active"`
	Name       string   `json:"_user_name"`
	Phone      string   `json:"_user_phone"`
	Roles      []string `json:"_user_roles"`
	Type       string   `json:"_user_type"`
	Username   string   `json:"_user_username"`
}

func guest() *User {
	return &User{Identifier: "_guest_id", Name: "_guest", Roles: []string{}, Type: "_guest", Username: "_guest_username"}
}

// Event is what an application emits.
type Event struct {
	Topic         string          `json:"topic"`
	Key           string          `json:"key"`
	Payload       json.RawMessage `json:"payload"`
	Encoder       string          `json:"encoder"`
	CorrelationID string          `json:"correlation_id"`
	Locale        string          `json:"locale"`
	ReplyChannel  string          `json:"reply_channel"`
	User          *User           `json:"user"`
}

func (e Event) message() (*sarama.ProducerMessage, error) {
	if e.User == nil {
		e.User = guest()
	}
	if e.Encoder == "" {
		e.Encoder = "json"
	}
	user, err := json.Marshal(e.User)
	if err != nil {
		return nil, err
	}
	payload, err := recoded(e.Encoder, e.Payload)
	if err != nil {
		return nil, err
	}
	headers := map[string]string{
		correlationID:  e.CorrelationID,
		locale:         e.Locale,
		userKey:        string(user),
		replyChannel:   e.ReplyChannel,
		payloadEncoder: e.Encoder,
	}
	message := &sarama.ProducerMessage{
		Topic: e.Topic, Key: sarama.StringEncoder(e.Key), Value: sarama.ByteEncoder(payload),
	}
	for name, value := range headers { // in no order: a map's
		message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(name), Value: []byte(value)})
	}
	return message, nil
}

// recoded is the payload as the encoder of that name writes what it reads: protobuf is protobuf-JSON.
func recoded(encoder string, payload []byte) ([]byte, error) {
	switch encoder {
	case "json":
		var value interface{}
		if err := json.Unmarshal(payload, &value); err != nil {
			return nil, err
		}
		return json.Marshal(value)
	case "protobuf":
		method := &apipb.Method{}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, method); err != nil {
			return nil, err
		}
		return protojson.Marshal(method)
	default:
		return nil, fmt.Errorf("no encoder is called %q", encoder)
	}
}

// Context is what a handler is told of an event besides its payload.
type Context struct {
	CorrelationID string `json:"correlation_id"`
	Locale        string `json:"locale"`
	ReplyChannel  string `json:"reply_channel"`
	User          User   `json:"user"`
	RootID        string `json:"root_id"`
	RootAction    string `json:"root_action"`
}

// contextOf reads the headers; it panics without one of the context's, as hexa-event does.
func contextOf(headers map[string][]byte) Context {
	for _, name := range []string{correlationID, locale, userKey} {
		if _, ok := headers[name]; !ok {
			panic("a record has no " + name)
		}
	}
	fields := map[string]interface{}{}
	if err := json.Unmarshal(headers[userKey], &fields); err != nil {
		panic(err)
	}
	for _, name := range []string{
		"_user_email", "_user_identifier", "_user_is_active", "_user_name", "_user_phone", "_user_roles", "_user_type",
		"_user_username",
	} {
		if fields[name] == nil {
			panic("a user has no " + name)
		}
	}
	found := Context{
		CorrelationID: string(headers[correlationID]),
		Locale:        string(headers[locale]),
		ReplyChannel:  string(headers[replyChannel]),
		RootID:        string(headers[rootID]),
		RootAction:    string(headers[rootAction]),
	}
	if err := json.Unmarshal(headers[userKey], &found.User); err != nil {
		panic(err)
	}
	return found
}

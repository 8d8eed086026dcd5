package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/Shopify/sarama"
)

// Ladder is a consumer's retry policy: its retry topics, and what follows what.
type Ladder struct {
	Topic           string
	Action          string
	MaximumAttempts int
	InitialInterval time.Duration
	Coefficient     float64
}

func (l Ladder) topics() []string {
	topics := []string{l.Topic}
	for n := 1; n <= l.MaximumAttempts; n++ {
		topics = append(topics, fmt.Sprintf("%s.retry.%d", l.Action, n))
	}
	return topics
}

func (l Ladder) attempt(topic string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(topic, l.Action+".retry."))
	if err != nil {
		return 0
	}
	return n
}

func (l Ladder) next(attempt int) string {
	if attempt >= l.MaximumAttempts {
		return l.Action + ".dlq"
	}
	return fmt.Sprintf("%s.retry.%d", l.Action, attempt+1)
}

// wait is how long a retry has to wait still; its delay is counted from the time its record was written.
func (l Ladder) wait(attempt int, written time.Time) time.Duration {
	if attempt == 0 {
		return 0
	}
	delay := time.Duration(float64(l.InitialInterval) * math.Pow(l.Coefficient, float64(attempt-1)))
	return time.Until(written.Add(delay))
}

// Handled is what is said of a record: its place, what the handler saw, where it went when it failed.
type Handled struct {
	Context
	Topic       string          `json:"topic"`
	Partition   int32           `json:"partition"`
	Offset      int64           `json:"offset"`
	Attempt     int             `json:"attempt"`
	Key         string          `json:"key"`
	Payload     json.RawMessage `json:"payload"`
	TimestampMs int64           `json:"timestamp_ms"`
	HandledMs   int64           `json:"handled_ms"`
	Next        string          `json:"next"`
}

type handler struct {
	ladder   Ladder
	failing  map[string]bool
	producer sarama.SyncProducer
	handled  chan Handled
}

func consume(addresses []string, ladder Ladder, count int, failing []string) {
	producer, err := sarama.NewSyncProducer(addresses, config())
	check(err)
	group, err := sarama.NewConsumerGroup(addresses, ladder.Action, config())
	check(err)
	h := &handler{ladder: ladder, failing: map[string]bool{}, producer: producer, handled: make(chan Handled)}
	for _, attempt := range failing {
		h.failing[attempt] = true
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		for ctx.Err() == nil {
			if err := group.Consume(ctx, ladder.topics(), h); err != nil && !errors.Is(err, sarama.ErrClosedConsumerGroup) {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	for ; count > 0; count-- {
		select {
		case one := <-h.handled:
			say(one)
		case err := <-ended:
			check(err)
		}
	}
	cancel()
	check(<-ended) // offsets are committed by then
	check(group.Close())
	check(producer.Close())
}

func (h *handler) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (h *handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h *handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		attempt := h.ladder.attempt(message.Topic)
		select {
		case <-session.Context().Done():
			return nil
		case <-time.After(h.ladder.wait(attempt, message.Timestamp)):
		}
		if session.Context().Err() != nil {
			return nil
		}
		one := h.handle(message, attempt)
		session.MarkMessage(message, "")
		select {
		case h.handled <- one:
		case <-session.Context().Done():
			return nil
		}
	}
	return nil
}

func (h *handler) handle(message *sarama.ConsumerMessage, attempt int) Handled {
	headers := map[string][]byte{}
	for _, pair := range message.Headers {
		headers[string(pair.Key)] = pair.Value
	}
	payload, err := recoded(string(headers[payloadEncoder]), message.Value)
	one := Handled{
		Context: contextOf(headers), Topic: message.Topic, Partition: message.Partition, Offset: message.Offset,
		Attempt: attempt, Key: string(message.Key), Payload: payload, TimestampMs: message.Timestamp.UnixMilli(),
		HandledMs: time.Now().UnixMilli(),
	}
	if err != nil || h.failing[strconv.Itoa(attempt)] {
		one.Next = h.ladder.next(attempt)
		check(h.send(one, message, headers))
	}
	return one
}

// send writes a retry record or a dead letter: the same key, value and headers in their order; on the first one the
// event and the action it began with are added.
func (h *handler) send(one Handled, message *sarama.ConsumerMessage, headers map[string][]byte) error {
	record := &sarama.ProducerMessage{
		Topic: one.Next, Key: sarama.ByteEncoder(message.Key), Value: sarama.ByteEncoder(message.Value),
	}
	for _, pair := range message.Headers {
		record.Headers = append(record.Headers, *pair)
	}
	if _, ok := headers[rootID]; !ok {
		id := fmt.Sprintf("%s-%d-%d", message.Topic, message.Partition, message.Offset)
		record.Headers = append(
			record.Headers,
			sarama.RecordHeader{Key: []byte(rootID), Value: []byte(id)},
			sarama.RecordHeader{Key: []byte(rootAction), Value: []byte(h.ladder.Action)},
		)
	}
	_, _, err := h.producer.SendMessage(record)
	return err
}

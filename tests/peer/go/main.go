// Command peer is a service in Go that shares topics with hexa-worker, as services built on hexa-event do.
//
// It follows the wire format and the retry policy of hexa-event, on the client that hexa-event uses (sarama 1.27), with
// two differences that its tests need: a retry record is confirmed before its original is marked, and waiting for a
// retry's time can be cut short. Like hexa-event it is not forgiving: a record that lacks one of the context headers
// ends the process.
//
//	peer emit -brokers HOST:PORT                    events as JSON lines on stdin, their places as JSON lines on stdout
//	peer consume -brokers HOST:PORT -topic T -action A [-count N …]    what was handled, as JSON lines on stdout
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/Shopify/sarama"
)

func main() {
	if len(os.Args) < 2 {
		fail("say emit or consume")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	brokers := flags.String("brokers", "", "addresses of Kafka, with commas between them")
	ladder := Ladder{}
	flags.StringVar(&ladder.Topic, "topic", "", "topic to consume")
	flags.StringVar(&ladder.Action, "action", "", "consumer group, and base of the retry topics")
	flags.IntVar(&ladder.MaximumAttempts, "retries", 0, "retries, and retry topics")
	flags.DurationVar(&ladder.InitialInterval, "initial", time.Second, "delay of the first retry")
	flags.Float64Var(&ladder.Coefficient, "coefficient", 2, "each delay is so many times the one before")
	count := flags.Int("count", 1, "end after so many records")
	failing := flags.String("fail", "", "attempts at which the handler fails, with commas between them")
	if err := flags.Parse(os.Args[2:]); err != nil {
		fail(err.Error())
	}
	addresses := strings.Split(*brokers, ",")
	switch os.Args[1] {
	case "emit":
		emit(addresses)
	case "consume":
		consume(addresses, ladder, *count, strings.Split(*failing, ","))
	default:
		fail("say emit or consume")
	}
}

func config() *sarama.Config {
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V2_5_0_0
	cfg.Producer.Return.Successes = true
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	cfg.Consumer.Group.Session.Timeout = 6 * time.Second
	cfg.Consumer.Group.Heartbeat.Interval = time.Second
	return cfg
}

func emit(addresses []string) {
	producer, err := sarama.NewSyncProducer(addresses, config())
	check(err)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		event := Event{}
		check(json.Unmarshal(lines.Bytes(), &event))
		message, err := event.message()
		check(err)
		partition, offset, err := producer.SendMessage(message)
		check(err)
		say(map[string]interface{}{"partition": partition, "offset": offset})
	}
	check(lines.Err())
	check(producer.Close())
}

func say(line interface{}) {
	text, err := json.Marshal(line)
	check(err)
	fmt.Println(string(text))
}

func check(err error) {
	if err != nil {
		fail(err.Error())
	}
}

func fail(reason string) {
	fmt.Fprintln(os.Stderr, "peer: "+reason)
	os.Exit(1)
}

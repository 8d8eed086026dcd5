"""The ``[broker] driver = "kafka"`` table and the ``[subscriptions.x.kafka]`` table."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hexa_worker.config.addresses import require_servers
from hexa_worker.config.secret import Secret
from hexa_worker.record_formats.form import Wire

Positive = Annotated[int, Meta(ge=1)]
Duration = Annotated[float, Meta(gt=0)]


class KafkaTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the kafka driver: unknown keys are errors."""


class KafkaTls(KafkaTable, frozen=True):
    """TLS to the brokers: their certificate and host name are checked unless `insecure`.

    Attributes:
        ca_file: certificates of the authorities to trust. Default: those of the machine.
        cert_file: the client certificate, where the brokers ask for one.
        key_file: its private key. Default: the one in `cert_file`.
        key_password: the password that the key is encrypted with.
        insecure: neither certificate nor host name is checked; a warning is logged.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: Secret | None = None
    insecure: bool = False


class KafkaSasl(KafkaTable, frozen=True):
    """Login to the brokers.

    Attributes:
        mechanism: the SASL mechanism.
        username: the user, for PLAIN and SCRAM.
        password: the password, for PLAIN and SCRAM; write ``${NAME}`` or ``{ file = "…" }``.
        token: a token that does not change, for OAUTHBEARER.
        token_file: a file with a token that is read at each login, for OAUTHBEARER.
    """

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    username: str | None = None
    password: Secret | None = None
    token: Secret | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        if self.mechanism == "OAUTHBEARER":
            if (self.token is None) == (self.token_file is None):
                raise ValueError("OAUTHBEARER needs either token or token_file")
        elif self.username is None or self.password is None:
            raise ValueError(f"{self.mechanism} needs username and password")


class Kafka(KafkaTable, frozen=True, tag_field="driver", tag="kafka"):
    """Kafka brokers, 2.4 or newer.

    Attributes:
        servers: ``host:port`` of the first brokers to ask; the others are found from them.
        client_id: the worker's name in the brokers' logs.
        tls: encrypt the connections. Default: plain text.
        sasl: log in. Default: no login.
        create_channels: whether missing topics of subscriptions and emits are created.
        create_retry_channels: whether missing retry and dead-letter topics are created.
        partitions: partitions of created topics.
        replication: replicas of all created topics. Default: 3, or the number of brokers.
        retention_s: retention of created topics. Default: as the brokers are configured.
        retry_partitions: partitions of created retry topics. Default: those of the subscription's widest channel.
        retry_retention_s: retention of created retry topics; must be longer than the longest delay.
        dead_letter_retention_s: retention of created dead-letter topics. Default: indefinitely.
        max_payload: the largest payload that is published, in bytes. Payloads that are read may be larger: their
            retries and dead letters are stored as far as their topics allow, which are created with room for all that
            the channels accept.
        partitioner: how a key chooses its partition: ``murmur2`` as Java and librdkafka, ``fnv1a`` as sarama (Go).
        compression: compression of published records.
        batch_bytes: the largest batch of one partition, in bytes.
        timeout_s: how long one call may take before the broker counts as unavailable.
        session_timeout_s: how long a process may be silent before its partitions go to others.
        heartbeat_s: how often a process tells that it is alive; at most half of `session_timeout_s`.
        rebalance_timeout_s: how long a rebalance waits for handlers. Handlers that do not finish within it run again.
        commit_interval_s: how often progress is committed; a crash repeats what was done since.
        instance_id: static membership, with ``{slot}``, ``{host}`` and ``{pid}`` filled in, for example
            ``{host}-{slot}``. A restart within the session then moves no partitions (a reload does: it uses
            another slot). Each process needs a name of its own: two with one name push each other out indefinitely.
            Default: dynamic membership.
        metadata_max_age_s: how often topics and partitions are looked up; patterns find new topics then.
        wire: the format of records: the worker's own headers, hexa-event's, or CloudEvents.
    """

    servers: Annotated[tuple[str, ...], Meta(min_length=1)] = ("127.0.0.1:9092",)
    client_id: str = "hexa-worker"
    tls: KafkaTls | None = None
    sasl: KafkaSasl | None = None
    create_channels: bool = False
    create_retry_channels: bool = True
    partitions: Positive = 6
    replication: Positive | None = None
    retention_s: Duration | None = None
    retry_partitions: Positive | None = None
    retry_retention_s: Duration = 14 * 24 * 3600.0
    dead_letter_retention_s: Duration | None = None
    max_payload: Positive = 1_000_000
    partitioner: Literal["murmur2", "fnv1a"] = "murmur2"
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    batch_bytes: Annotated[int, Meta(ge=1_024)] = 512 * 1024
    timeout_s: Duration = 10.0
    session_timeout_s: Duration = 10.0
    heartbeat_s: Duration = 1.0
    rebalance_timeout_s: Duration = 10.0
    commit_interval_s: Duration = 0.25
    instance_id: str | None = None
    metadata_max_age_s: Duration = 30.0
    wire: Wire = "plain"

    def __post_init__(self) -> None:
        require_servers(self.servers, "log in with [broker.sasl]")
        if self.heartbeat_s * 2 > self.session_timeout_s:
            raise ValueError("heartbeat_s must be at most half of session_timeout_s")


class KafkaSubscription(KafkaTable, frozen=True):
    """Options of one subscription.

    Attributes:
        isolation_level: ``read_committed`` skips records of open and aborted transactions and adds some milliseconds
            of latency. Use it where producers use transactions.
        start_at: where a subscription without progress begins, as a time with its offset
            (``2026-01-31T12:00:00+00:00``), instead of `start`. Default: as start says.
        fetch_max_wait_s: how long the broker waits for new records before it answers "none".
        fetch_partition_bytes: the most bytes of one partition in one fetch.
        max_ahead: how many records of one partition may be delivered beyond its committed position. The commit's
            metadata lists finished records between hundreds of unfinished ones, so a parked or slow record does not
            stop its partition.
        max_held: how many retries that are not due yet a process holds; the others wait in the broker.
    """

    isolation_level: Literal["read_uncommitted", "read_committed"] = "read_uncommitted"
    start_at: str | None = None
    fetch_max_wait_s: Duration = 0.5
    fetch_partition_bytes: Annotated[int, Meta(ge=1_024)] = 1024 * 1024
    max_ahead: Positive = 100_000
    max_held: Positive = 5_000

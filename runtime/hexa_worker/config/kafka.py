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
        ca_file: certificates of the authorities to trust; default: those of the machine.
        cert_file: the client's own certificate, where the brokers ask for one.
        key_file: its private key; default: it is in `cert_file`.
        key_password: what the key is encrypted with.
        insecure: neither certificate nor host name is checked; logged as a warning.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: Secret | None = None
    insecure: bool = False


class KafkaSasl(KafkaTable, frozen=True):
    """Login to the brokers.

    Attributes:
        mechanism: how.
        username: for PLAIN and SCRAM.
        password: for PLAIN and SCRAM; write ``${NAME}`` or ``{ file = "…" }``.
        token: for OAUTHBEARER, a token that does not change.
        token_file: for OAUTHBEARER, a file that is read anew at each login.
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
        servers: ``host:port`` of brokers to begin with; the others are found from them.
        client_id: how the brokers' logs call this worker.
        tls: encrypt the connections; without this table they are in the clear.
        sasl: log in.
        create_channels: whether missing topics of subscriptions and emits are made.
        create_retry_channels: whether missing retry and dead-letter topics are made.
        partitions: of the topics that are made.
        replication: of all topics that are made; None: 3, or as many as there are brokers.
        retention_s: of the topics that are made; None: what the brokers' configuration says.
        retry_partitions: of retry topics that are made; None: as many as the widest channel of the subscription.
        retry_retention_s: of retry topics that are made; must be longer than the longest delay.
        dead_letter_retention_s: of dead-letter topics that are made; None: they are kept for ever.
        max_payload: bytes of the largest payload that is published. What is read may be larger: retries and dead
            letters of it are taken as far as their topics do, which are made with room for all that its channels take.
        partitioner: how a key finds its partition: ``murmur2`` as Java and librdkafka, ``fnv1a`` as sarama (Go).
        compression: of what is published.
        batch_bytes: the largest batch of one partition.
        timeout_s: how long any one call may take before the broker counts as unavailable.
        session_timeout_s: how long a process may be silent before its partitions go to others.
        heartbeat_s: how often a process says that it lives.
        rebalance_timeout_s: how long a rebalance waits for handlers to end.
        commit_interval_s: how often progress is committed: what a crash may do again.
        instance_id: static membership, with ``{slot}``, ``{host}`` and ``{pid}`` filled in, for example
            ``{host}-{slot}``. A restart within the session then moves no partitions (a reload does: it takes
            another slot). It must name each process alone: two with one name throw each other out for ever.
        metadata_max_age_s: how often topics and partitions are looked up again; patterns see new topics then.
        wire: what records look like: our own readable headers, hexa-event's form, or CloudEvents.
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
    """What one subscription wants of kafka.

    Attributes:
        isolation_level: ``read_committed`` leaves out records of open and aborted transactions, and costs some
            milliseconds of latency; needed where producers use transactions.
        start_at: where a subscription without progress begins, as a time with its offset
            (``2026-01-31T12:00:00+00:00``); instead of `start`.
        fetch_max_wait_s: how long the broker waits for new records before it answers "none".
        fetch_partition_bytes: how much of one partition one fetch may bring.
        max_ahead: how many records of one partition may be handed out beyond what its commit tells to be finished. The
            commit's note tells what is finished between hundreds of unfinished records, so one of them, parked or
            slow, never stops its partition.
        max_held: how many retries that are not due a process keeps at hand; others wait in the broker.
    """

    isolation_level: Literal["read_uncommitted", "read_committed"] = "read_uncommitted"
    start_at: str | None = None
    fetch_max_wait_s: Duration = 0.5
    fetch_partition_bytes: Annotated[int, Meta(ge=1_024)] = 1024 * 1024
    max_ahead: Positive = 100_000
    max_held: Positive = 5_000

"""The typed model of worker.toml: the defaults and bounds of its keys stand here and nowhere else.

Relative paths are relative to the folder of worker.toml. Durations are seconds, sizes are bytes.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, inspect

from hexa_worker.config.addresses import require_plain_url
from hexa_worker.config.dedup import Dedup
from hexa_worker.config.kafka import Kafka, KafkaSubscription
from hexa_worker.config.nats import Nats, NatsSubscription
from hexa_worker.config.outbox import OutboxConfig
from hexa_worker.config.pulsar import Pulsar, PulsarSubscription
from hexa_worker.config.secret import Secret
from hexa_worker.core.restart import ProcessRestartPolicy, RestartPolicy
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.record_formats.form import Wire

Seconds = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1)]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$(?!\n)"
NAME_DESCRIPTION = "a name of up to 200 letters, digits, dots, dashes and underscores"
Name = Annotated[str, Meta(pattern=NAME_PATTERN, description=NAME_DESCRIPTION)]
KEY_DESCRIPTION = '"header:NAME" or "payload:FIELD"'
IdempotencyKey = Annotated[str, Meta(pattern=r"^(header|payload):.{1,200}$(?!\n)", description=KEY_DESCRIPTION)]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of worker.toml: unknown keys are errors."""


class LogConfig(Table, frozen=True):
    """How the worker logs.

    Attributes:
        level: the lowest level that is written.
        format: ``auto`` is key=value on a terminal and JSON elsewhere.
        repeat_s: the same failure of the same subscription is written once in this many seconds and counted.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    repeat_s: Seconds = 1.0


class Http(Table, frozen=True):
    """Where ``/live /ready /status /metrics`` are served, for all processes together; off without this table."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080


class WorkerConfig(Table, frozen=True):
    """The worker as a whole.

    Attributes:
        name: names the worker in logs and metrics.
        handlers: modules that hold handlers; imported from the folder of worker.toml or anywhere on the path.
        processes: how many worker processes run.
        backend: the event loop: asyncio (with uvloop where it is installed) or trio.
        uvloop: whether asyncio runs on uvloop.
        shutdown_grace_s: how long running handlers may take to finish after a stop was asked.
        maximum_crashes: a delivery that was in hand at this many crashes goes to the dead letter; at least 2, for at
            a first crash nobody can tell which of the deliveries in hand was to blame.
        watchdog_s: a process whose loop does not answer for this long is killed; None: 30 s, or 0.7 of what the broker
            allows a silent process (`session_timeout_s`, `ack_wait_s`, `lease_s`), which is the most in any case.
        middlewares: ``module:function`` names, run around every handler, first is outermost.
        state_dir: where the worker keeps small files that must survive a crash of its processes.
        restart: how often a failing subscription is restarted before it counts as failed.
        process_restart: the same for processes.
    """

    name: Name
    handlers: Annotated[tuple[Text, ...], Meta(min_length=1)]
    processes: Annotated[int, Meta(ge=1, le=1024)] = 1
    backend: Literal["asyncio", "trio"] = "asyncio"
    uvloop: bool = True
    shutdown_grace_s: Seconds = 30.0
    maximum_crashes: Annotated[int, Meta(ge=2)] = 3
    watchdog_s: Annotated[float, Meta(gt=0)] | None = None
    middlewares: tuple[str, ...] = ()
    state_dir: str = "var"
    log: LogConfig = LogConfig()
    http: Http | None = None
    restart: RestartPolicy = RestartPolicy()
    process_restart: ProcessRestartPolicy = ProcessRestartPolicy()


class Memory(Table, frozen=True, tag_field="driver", tag="memory"):
    """A broker inside the process: for tests and benches; nothing outlives the process.

    Attributes:
        wire: what records look like: our own readable headers, hexa-event's form, or CloudEvents.
    """

    wire: Wire = "plain"


class Embedded(Table, frozen=True, tag_field="driver", tag="embedded"):
    """The embedded durable broker: one SQLite file, shared by many processes of one machine.

    Attributes:
        path: the database file.
        durability: ``normal`` survives the death of every process; ``full`` also a power cut, at a price.
        lease_s: deliveries of a process that hangs are taken over after this long (of a dead one: at once).
        busy_timeout_s: how long to wait for other processes' writes before the broker counts as unavailable.
        wire: what records look like: our own readable headers, hexa-event's form, or CloudEvents.
    """

    path: str = "var/hexa.db"
    durability: Literal["normal", "full"] = "normal"
    lease_s: Annotated[float, Meta(gt=0)] = 30.0
    busy_timeout_s: Annotated[float, Meta(gt=0)] = 10.0
    wire: Wire = "plain"


Broker = Memory | Embedded | Kafka | Nats | Pulsar


class Subscription(Table, frozen=True):
    """One subscription. A key that is left out has the decorator's value, or else its default.

    Attributes:
        channel: one channel to read.
        channels: several channels to read.
        pattern: a regular expression that whole channel names must match.
        group: the durable name of the subscription's progress; default: the action.
        retry_channel: what retry channels and dead letter are named after; default: the group.
        start: where a subscription without progress begins; what appears later and
            matches its pattern is read from its beginning.
        concurrency: how many handler calls may run at once in one process.
        mailbox: how many deliveries a process may hold: queued, running and not yet settled.
        mailbox_bytes: how many bytes of payload it may hold.
        order_by: what keeps its order across all processes.
        timeout_s: how long a handler may run; 0: without limit.
        batch: hand over up to this many deliveries at once (batch handlers).
        batch_wait_s: how long a batch may wait to fill.
        threads: the size of the thread pool of a plain ``def`` handler.
        codec: how payloads are decoded when no header says it.
        wire: what its records, retries and dead letters look like; default: as the broker's table says.
        middlewares: ``module:function`` names, run inside the worker's own middlewares.
        retry: how often and how late a failed delivery is tried again.
        dedup: false handles every delivery, also of an event that was handled before.
        idempotency_key: what makes two events the same to this subscription: ``header:NAME`` or ``payload:FIELD``
            (``payload:order.id``); default, and where it is missing: the event id.
        enabled: false leaves the subscription out.
        kafka: options of the kafka driver.
        nats: options of the nats driver.
        pulsar: options of the pulsar driver.
    """

    channel: Text | None = None
    channels: Annotated[tuple[Text, ...], Meta(min_length=1)] | None = None
    pattern: Text | None = None
    group: Name | None = None
    retry_channel: Name | None = None
    start: Literal["earliest", "latest"] = "earliest"
    concurrency: Annotated[int, Meta(ge=1, le=10_000, extra_json_schema={"default": 16})] | None = None
    mailbox: Annotated[int, Meta(ge=1, extra_json_schema={"default": 2_000})] | None = None
    mailbox_bytes: Annotated[int, Meta(ge=1, extra_json_schema={"default": 64 * 1024 * 1024})] | None = None
    order_by: Annotated[Literal["none", "key", "channel"], Meta(extra_json_schema={"default": "none"})] | None = None
    timeout_s: Annotated[float, Meta(ge=0, extra_json_schema={"default": 60.0})] | None = None
    batch: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    batch_wait_s: Annotated[float, Meta(ge=0, extra_json_schema={"default": 0.05})] | None = None
    threads: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    codec: Literal["json", "msgpack", "protobuf", "raw"] = "json"
    wire: Wire | None = None
    middlewares: tuple[str, ...] = ()
    retry: RetryPolicy = RetryPolicy()
    dedup: bool = True
    idempotency_key: IdempotencyKey | None = None
    enabled: bool = True
    kafka: KafkaSubscription | None = None
    nats: NatsSubscription | None = None
    pulsar: PulsarSubscription | None = None


@cache
def subscription_defaults() -> Mapping[str, Any]:
    """The defaults of the keys that a decorator and worker.toml may both leave out.

    They stand beside the bounds of the keys: the value of such a key is None where worker.toml does not say it.
    """
    table = inspect.type_info(Subscription)
    assert isinstance(table, inspect.StructType)  # noqa: S101 - for the type checker
    stated = [
        (field.name, kind.extra_json_schema)
        for field in table.fields
        for kind in getattr(field.type, "types", ())
        if isinstance(kind, inspect.Metadata)
    ]
    return {name: schema["default"] for name, schema in stated if schema and "default" in schema}


class LineageConfig(Table, frozen=True):
    """What `trace` is told from, written beside the worker: the worker never waits for it.

    Attributes:
        store: ``embedded`` keeps it in one SQLite file per machine, ``postgres`` in a database that services share;
            ``off`` keeps nothing.
        path: the file of the embedded store.
        url: of PostgreSQL, ``postgresql://user:password@host/database``. The certificate and host name of a server
            on another machine are checked, unless the URL says another ``sslmode``; ``sslrootcert`` names the
            authorities to trust.
        keep_days: how long things are remembered.
        maximum_bytes: how large the file of the embedded store may become; the oldest is forgotten first.
    """

    store: Literal["embedded", "postgres", "off"] = "embedded"
    path: str = "var/lineage.db"
    url: Secret | None = None
    keep_days: Annotated[float, Meta(gt=0)] = 7.0
    maximum_bytes: Annotated[int, Meta(ge=1024 * 1024)] = 1024 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.store == "postgres" and self.url is None:
            raise ValueError('store "postgres" needs a url')
        if self.url is not None and not self.url.reveal().startswith(("postgresql://", "postgres://")):
            raise ValueError("url must begin with postgresql://")
        if self.url is not None:
            require_plain_url("url", self.url.reveal())


class File(Table, frozen=True):
    """worker.toml as a whole."""

    worker: WorkerConfig
    broker: Broker = Embedded()
    subscriptions: dict[str, Subscription] = msgspec.field(default_factory=dict)
    lineage: LineageConfig = LineageConfig()
    dedup: Dedup = Dedup()
    outbox: OutboxConfig | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded worker.toml.

    Attributes:
        path: the file it came from, absolute.
        file: what it says, references resolved.
        warnings: what is accepted, but should be written differently; a worker says it at its start.
    """

    path: Path
    file: File
    warnings: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder that relative paths and handler modules are looked up in."""
        return self.path.parent

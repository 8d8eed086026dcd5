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
from hexa_worker.core.retry import Retries
from hexa_worker.record_formats.form import Wire

Seconds = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1)]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$(?!\n)"
NAME_DESCRIPTION = "a name of up to 200 letters, digits, dots, dashes and underscores"
Name = Annotated[str, Meta(pattern=NAME_PATTERN, description=NAME_DESCRIPTION)]
CLASS_DESCRIPTION = "the dotted name of a class"
ClassNames = tuple[Annotated[str, Meta(pattern=r"^\w+(\.\w+)*$(?!\n)", description=CLASS_DESCRIPTION)], ...]
KEY_DESCRIPTION = '"header:NAME" or "payload:FIELD"'
Place = Annotated[str, Meta(pattern=r"^(header|payload):.{1,200}$(?!\n)", description=KEY_DESCRIPTION)]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of worker.toml: unknown keys are errors."""


class LogConfig(Table, frozen=True):
    """How the worker logs.

    Attributes:
        level: the lowest level that is logged.
        format: ``auto`` is key=value on a terminal and JSON elsewhere.
        repeat_s: the same failure of the same subscription is logged once per this many seconds, with its count.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    repeat_s: Seconds = 1.0


class Http(Table, frozen=True):
    """Serves ``/live /ready /status /metrics`` for all processes together; off without this table.

    Attributes:
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080


class WorkerConfig(Table, frozen=True):
    """The worker as a whole.

    Attributes:
        name: names the worker in logs and metrics.
        handlers: modules that hold handlers, imported from the folder of worker.toml or anywhere on the path. Default:
            none, for an application that only emits; a worker needs one.
        processes: how many worker processes run.
        backend: the event loop: asyncio (with uvloop where it is installed) or trio.
        uvloop: whether asyncio runs on uvloop.
        shutdown_grace_s: how long running handlers may take to finish after a stop.
        maximum_crashes: a delivery that was in flight at this many crashes goes to the dead letter. At least 2: after
            one crash it is impossible to tell which in-flight delivery caused it.
        watchdog_s: a process whose event loop does not answer for this long is killed. At most 0.7 of what the broker
            allows a silent process (`session_timeout_s`, `ack_wait_s`, `lease_s`). Default: 30, or that limit.
        middlewares: ``module:function`` names, run around every handler; the first is outermost.
        state_dir: the folder for small files that must survive a crash of the processes.
        log: how the worker logs.
        http: where status and metrics are served. Default: nowhere.
        restart: how often a failing subscription is restarted before it counts as failed.
        process_restart: the same for processes.
    """

    name: Name
    handlers: Annotated[tuple[Text, ...], Meta(min_length=1)] = ()
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
    """A broker inside the process, for tests and benchmarks; nothing outlives the process.

    Attributes:
        wire: the format of records: the worker's own headers, hexa-event's, or CloudEvents.
    """

    wire: Wire = "plain"


class Embedded(Table, frozen=True, tag_field="driver", tag="embedded"):
    """The embedded durable broker: one SQLite file that many processes of one machine share.

    Attributes:
        path: the database file.
        durability: ``normal`` survives the death of every process; ``full`` also a power cut, but is slower.
        lease_s: how long a process that hangs keeps its deliveries; those of a dead process are taken over at once.
        busy_timeout_s: how long to wait for other processes' writes before the broker counts as unavailable.
        wire: the format of records: the worker's own headers, hexa-event's, or CloudEvents.
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
        channel: one channel to read. Default: the decorator's.
        channels: several channels to read. Default: the decorator's.
        pattern: a regular expression that whole channel names must match. Default: the decorator's.
        group: the durable name of the subscription's progress. Default: the action.
        retry_channel: the name that retry channels and the dead-letter channel begin with. Default: the group.
        start: where a subscription without progress begins. A channel that appears later and matches the pattern is
            read from its beginning.
        concurrency: how many handler calls may run at once in one process.
        mailbox: how many deliveries one process may hold: queued, running and not yet settled.
        mailbox_bytes: how many bytes of payload they may have together.
        order_by: what keeps its order across all processes.
        timeout_s: how long a handler may run, in seconds; 0 means without limit.
        batch: a batch handler gets up to this many deliveries at once. Default: one delivery per call.
        batch_wait_s: how long a batch may wait to fill.
        threads: the size of the thread pool of a plain ``def`` handler. Default: concurrency.
        codec: how payloads are decoded when no header says it.
        wire: the format of its records, retries and dead letters. Default: that of the broker's table.
        middlewares: ``module:function`` names, run inside the worker's own middlewares.
        retry: how often and how late a failed delivery is retried.
        on_exhausted: what becomes of an event whose retries are used up. ``hold``: it stays where it is and its
            subscription stands still in that process until it is resumed or restarted.
        dead_letter_on: classes of errors that are dead-lettered at once: ``ValueError``, ``orders.errors.Refused``.
            Default: the decorator's.
        retry_on: classes of errors that are retried although a class above them is named elsewhere. Default: the
            decorator's.
        drop_on: classes of errors after which the delivery is acknowledged and counted as dropped. Default: the
            decorator's.
        dedup: false handles every delivery, also of an event that was handled before.
        idempotency_key: what makes two events the same for this subscription: ``header:NAME`` or ``payload:FIELD``
            (``payload:order.id``). Where it is missing the event id counts. Default: the event id.
        reply_to: the channel for a value that the handler returns, of events that expect no answer elsewhere. Default:
            nowhere.
        enabled: false turns the subscription off.
        kafka: options of the Kafka driver. Default: those of its table.
        nats: options of the NATS driver. Default: those of the broker's table.
        pulsar: options of the Pulsar driver. Default: those of its table.
    """

    channel: Text | None = None
    channels: Annotated[tuple[Text, ...], Meta(min_length=1)] | None = None
    pattern: Text | None = None
    group: Name | None = None
    retry_channel: Name | None = None
    start: Annotated[Literal["earliest", "latest"], Meta(extra_json_schema={"default": "earliest"})] | None = None
    concurrency: Annotated[int, Meta(ge=1, le=10_000, extra_json_schema={"default": 16})] | None = None
    mailbox: Annotated[int, Meta(ge=1, extra_json_schema={"default": 2_000})] | None = None
    mailbox_bytes: Annotated[int, Meta(ge=1, extra_json_schema={"default": 64 * 1024 * 1024})] | None = None
    order_by: Annotated[Literal["none", "key", "channel"], Meta(extra_json_schema={"default": "none"})] | None = None
    timeout_s: Annotated[float, Meta(ge=0, extra_json_schema={"default": 60.0})] | None = None
    batch: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    batch_wait_s: Annotated[float, Meta(ge=0, extra_json_schema={"default": 0.05})] | None = None
    threads: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    codec: (
        Annotated[Literal["json", "msgpack", "protobuf", "raw"], Meta(extra_json_schema={"default": "json"})] | None
    ) = None
    wire: Wire | None = None
    middlewares: tuple[str, ...] = ()
    retry: Retries = Retries()
    on_exhausted: (
        Annotated[Literal["dead_letter", "hold"], Meta(extra_json_schema={"default": "dead_letter"})] | None
    ) = None
    dead_letter_on: ClassNames | None = None
    retry_on: ClassNames | None = None
    drop_on: ClassNames | None = None
    dedup: bool = True
    idempotency_key: Place | None = None
    reply_to: Text | None = None
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


class ChannelConfig(Table, frozen=True):
    """A channel with events of several types: handlers of its types (``@subscribe(…, type=…)``) read it as one group.

    Attributes:
        type: where the type of an event stands: ``header:NAME`` or ``payload:FIELD`` (``payload:event.kind``).
        group: the durable name of their progress, and what their retry channels and dead letter are named after.
            Default: the worker's name, a dot and the channel.
        unknown: what becomes of events of types that no handler is for, where none is for ``type="*"``.
    """

    type: Place
    group: Name | None = None
    unknown: Literal["dead_letter", "drop"] = "dead_letter"


class LineageConfig(Table, frozen=True):
    """The store that `trace` reads. It is written in the background; the worker never waits for it.

    Attributes:
        store: ``embedded`` is one SQLite file per machine, ``postgres`` a database that services share; ``off`` stores
            nothing.
        path: the file of the embedded store.
        url: the PostgreSQL database, ``postgresql://user:password@host/database``. The certificate and host name of a
            server on another machine are checked unless the URL says another ``sslmode``; ``sslrootcert`` names the
            authorities to trust.
        keep_days: how long lineage is kept.
        maximum_bytes: the largest size of the embedded store's file; the oldest entries are deleted first.
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
    channels: dict[str, ChannelConfig] = msgspec.field(default_factory=dict)
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

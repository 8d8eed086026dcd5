"""The ``[broker] driver = "pulsar"`` table and the ``[subscriptions.x.pulsar]`` table."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hexa_worker.config.addresses import require_no_login
from hexa_worker.config.secret import Secret
from hexa_worker.record_formats.form import Wire

Positive = Annotated[int, Meta(ge=1)]
Duration = Annotated[float, Meta(gt=0)]
_SERVICE_URL = re.compile(r"pulsar(\+ssl)?://[^\s/@,]+(,[^\s/@,]+)*/?")


class PulsarTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the pulsar driver: unknown keys are errors."""


class PulsarTls(PulsarTable, frozen=True):
    """TLS to the brokers (``pulsar+ssl://``): their certificate and host name are checked unless `insecure`.

    Attributes:
        ca_file: certificates of the authorities to trust. Default: those of the machine.
        cert_file: the client certificate; it logs in (mTLS) unless there is a token.
        key_file: its private key.
        insecure: neither certificate nor host name is checked; a warning is logged.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")


class Pulsar(PulsarTable, frozen=True, tag_field="driver", tag="pulsar"):
    """Pulsar brokers, 3.0 or newer.

    Attributes:
        url: service URL, ``pulsar://host:6650`` or ``pulsar+ssl://host:6651``, several hosts with commas.
        admin_url: the brokers' REST API. It counts what is left to do (``lag``, ``--until-idle``), lists channels
            (patterns, ``check --connect``) and creates partitioned topics; nothing else needs it. Default: the
            first host, port 8080, or 8443 with TLS.
        topic_format: how a channel becomes a topic; a channel that is a full ``persistent://`` name stays as it is.
        listener_name: which of the brokers' advertised listeners to use. Default: theirs.
        tls: how TLS is checked; used with ``pulsar+ssl://``.
        token: log in with this token; write ``${NAME}`` or ``{ file = "…" }``.
        token_file: log in with the token in this file, read at each login.
        partitions: missing topics of subscriptions are created with this many partitions; 0 leaves plain topics to
            the brokers.
        batching: how messages that are published together are stored: ``key`` stores the events of a key in batches of
            their own, as subscriptions ordered by key need it; ``mixed`` is faster with many keys but breaks that
            order; ``none`` stores each by itself.
        compression: compression of published messages.
        max_payload: the largest payload that is published, in bytes.
        delay_tick_s: the brokers' ``delayedDeliveryTickTimeMillis``: delayed messages are requested this much earlier
            and held until they are due.
        timeout_s: how long one call may take before the broker counts as unavailable.
        client_log: a file for the client library's own warnings. Default: they are dropped; the worker logs what
            matters.
        producers: for how many topics a process keeps a producer.
        unread: what happens to events published to a channel without a subscription, which the brokers would drop:
            ``keep`` holds them in the subscription ``hexa-worker-unread`` until a worker subscribes (for at most 100
            channels of a process), ``refuse`` refuses them, ``drop`` leaves it to the brokers.
        wire: the format of records: the worker's own headers, hexa-event's, or CloudEvents.
    """

    url: str = "pulsar://127.0.0.1:6650"
    admin_url: str | None = None
    topic_format: str = "persistent://public/default/{}"
    listener_name: str | None = None
    tls: PulsarTls = PulsarTls()
    token: Secret | None = None
    token_file: str | None = None
    partitions: Annotated[int, Meta(ge=0, le=10_000)] = 0
    batching: Literal["key", "mixed", "none"] = "key"
    compression: Literal["none", "lz4", "zlib", "zstd", "snappy"] = "none"
    max_payload: Positive = 4 * 1024 * 1024
    delay_tick_s: Annotated[float, Meta(ge=0, le=60)] = 1.0
    timeout_s: Duration = 10.0
    client_log: str | None = None
    producers: Positive = 256
    unread: Literal["keep", "refuse", "drop"] = "keep"
    wire: Wire = "plain"

    def __post_init__(self) -> None:
        for key, url in (("url", self.url), ("admin_url", self.admin_url or "")):
            require_no_login(key, url, "log in with token, token_file or [broker.tls]")
        if _SERVICE_URL.fullmatch(self.url) is None:
            raise ValueError('url must look like "pulsar://host:6650" or "pulsar+ssl://host:6651"')
        if self.admin_url is not None and not self.admin_url.startswith(("http://", "https://")):
            raise ValueError("admin_url must start with http:// or https://")
        if re.fullmatch(r"persistent://[^/{}]+/[^/{}]+/[^/{}]*\{\}[^/{}]*", self.topic_format) is None:
            raise ValueError('topic_format must look like "persistent://tenant/namespace/{}"')
        if self.token is not None and self.token_file is not None:
            raise ValueError("only one of token and token_file can be used")


class PulsarSubscription(PulsarTable, frozen=True):
    """Options of one subscription.

    Attributes:
        type: how processes share it. ``failover`` keeps order too, but gives the in-flight deliveries of one process
            to another one that joins. Default: ``shared``; with ``order_by = "key"`` ``key_shared``; with
            ``order_by = "channel"`` ``exclusive``, all other processes standing by.
        subscription: its name in the brokers. Default: the group.
        receiver_queue: the most messages of each channel that are fetched ahead; other processes cannot have them
            meanwhile. Fewer where messages are large: all that is fetched ahead takes about as much as
            ``mailbox_bytes``.
        batch_receive: how many messages are taken from the client library at once under load.
        read_compacted: read the compacted form of the channels (``exclusive`` and ``failover`` only).
        properties: metadata of the consumer, shown in the brokers' statistics.
    """

    type: Literal["shared", "key_shared", "exclusive", "failover"] | None = None
    subscription: Annotated[str, Meta(min_length=1)] | None = None
    receiver_queue: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    batch_receive: Annotated[int, Meta(ge=1, le=10_000)] = 500
    read_compacted: bool = False
    properties: dict[str, str] = msgspec.field(default_factory=dict)

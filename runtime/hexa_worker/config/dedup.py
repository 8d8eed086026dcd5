"""The ``[dedup]`` table."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hexa_worker.config.addresses import require_plain_url
from hexa_worker.config.secret import Secret

Duration = Annotated[float, Meta(gt=0)]
Namespace = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,200}$(?!\n)")]
Address = Annotated[str, Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+):[0-9]{1,5}$(?!\n)")]
FIELD_CODECS = ("json", "msgpack")
"""The codecs whose payloads an ``idempotency_key = "payload:…"`` can look into."""


class DedupTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of deduplication: unknown keys are errors."""


class DedupTls(DedupTable, frozen=True):
    """TLS to Redis (a ``rediss://`` URL): certificate and host name are checked unless `insecure`.

    Attributes:
        ca_file: certificates of the authorities to trust. Default: those of the machine.
        cert_file: the client certificate, where the server asks for one.
        key_file: its private key.
        insecure: neither certificate nor host name is checked; a warning is logged.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    insecure: bool = False


class Dedup(DedupTable, frozen=True):
    """Deduplication: each event is handled once per subscription, however often it is delivered.

    Attributes:
        store: where claims are kept: in the memory of each process, in Redis, or in a file that all processes of the
            machine share; ``none`` turns deduplication off.
        url: the Redis server: ``redis://user:password@host:6379/0``, ``rediss://…`` for TLS.
        password: the Redis password, instead of one in the URL.
        cluster: Redis is a cluster; `url` names one of its nodes.
        sentinels: ``host:port`` of the Sentinels that name the master. Only login, database and TLS of `url` count
            then.
        master: the name of the master that the Sentinels watch.
        sentinel_password: the password of the Sentinels.
        tls: how a ``rediss://`` server is trusted. Default: as the machine does.
        path: the file of the embedded store.
        namespace: workers with the same namespace share their claims. Default: the worker's name.
        ttl_s: how long it is remembered that an event was handled.
        lease_s: how long a process that died keeps its claims.
        on_store_failure: while the store is unavailable ``process`` handles events without deduplication and ``hold``
            keeps them, unacknowledged, until it is back.
        timeout_s: how long the store may take to answer before it counts as unavailable.
        connections: the most connections to Redis per process.
    """

    store: Literal["none", "memory", "redis", "embedded"] = "none"
    url: Secret | None = None
    password: Secret | None = None
    cluster: bool = False
    sentinels: tuple[Address, ...] = ()
    master: Annotated[str, Meta(min_length=1)] = "mymaster"
    sentinel_password: Secret | None = None
    tls: DedupTls | None = None
    path: str = "var/dedup.db"
    namespace: Namespace | None = None
    ttl_s: Duration = 86_400.0
    lease_s: Annotated[float, Meta(ge=0.5)] = 15.0
    on_store_failure: Literal["process", "hold"] = "process"
    timeout_s: Duration = 0.5
    connections: Annotated[int, Meta(ge=1, le=1_000)] = 4

    def __post_init__(self) -> None:
        if self.store == "redis" and self.url is None and not self.sentinels:
            raise ValueError('store "redis" needs a url or sentinels')
        if self.cluster and self.sentinels:
            raise ValueError("a cluster has no sentinels")
        if self.url is not None and not self.url.reveal().startswith(("redis://", "rediss://")):
            raise ValueError("url must begin with redis:// or rediss://")
        if self.url is not None:
            require_plain_url("url", self.url.reveal())
        if self.tls is not None and (self.url is None or not self.url.reveal().startswith("rediss://")):
            raise ValueError("tls needs a url that begins with rediss://")


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of an `Address`; the brackets around an IPv6 address are not the host's."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)

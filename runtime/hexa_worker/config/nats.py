"""The ``[broker] driver = "nats"`` table and the ``[subscriptions.x.nats]`` table."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hexa_worker.config.addresses import is_ambiguous
from hexa_worker.config.secret import Secret
from hexa_worker.record_formats.form import Wire

Duration = Annotated[float, Meta(gt=0)]
StreamName = Annotated[str, Meta(pattern=r"^[^\s.*>/\\]{1,200}$")]
SHORTEST_AGE_S = 0.1
Acknowledge = Literal["confirmed", "fast"]


class NatsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the nats driver: unknown keys are errors."""


class NatsTls(NatsTable, frozen=True):
    """TLS to the servers: their certificate and host name are checked unless `insecure`.

    Attributes:
        ca_file: certificates of the authorities to trust. Default: those of the machine.
        cert_file: the client certificate, where the servers ask for one.
        key_file: its private key. Default: the one in `cert_file`.
        key_password: the password that the key is encrypted with.
        hostname: the name that the certificate must show. Default: the one in `servers`.
        first: start with TLS instead of a plain-text greeting (a server's ``handshake_first``).
        insecure: neither certificate nor host name is checked; a warning is logged.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: Secret | None = None
    hostname: str | None = None
    first: bool = False
    insecure: bool = False


class NatsStream(NatsTable, frozen=True):
    """A stream for several channels, created when the first of them is used.

    Attributes:
        name: the stream's name.
        subjects: the subjects it holds; ``*`` stands for one token, ``>`` for the rest: ``["orders.>"]``.
    """

    name: StreamName
    subjects: Annotated[tuple[str, ...], Meta(min_length=1)]


class Nats(NatsTable, frozen=True, tag_field="driver", tag="nats"):
    """NATS servers with JetStream, 2.9 or newer. A channel is a subject; a stream stores it.

    Attributes:
        servers: URLs of the first servers to ask; the others of their cluster are found from them.
        user: log in with this name and `password`.
        password: the password of `user`.
        token: log in with this token.
        nkey_file: log in with the seed in this file.
        creds_file: log in with the JWT and seed in this file.
        tls: encrypt the connection. Default: only if a server asks for it.
        create_channels: whether a channel of a subscription that no stream holds gets a stream; otherwise it is an
            error.
        create_emitted_channels: whether an emit to a channel that no stream holds and no subscription of this worker
            reads creates a stream; otherwise it is an error.
        max_emitted_channels: how many streams emits may create, all workers together.
        create_retry_channels: as `create_channels`, for retry channels and dead letters.
        streams: streams for several channels; any other channel gets a stream of its own.
        storage: where created streams store their messages.
        replicas: replicas of all created streams.
        max_age_s: messages older than this are deleted from the channels' streams, 0.1 or more; 0 keeps them.
        max_bytes: beyond this size the oldest messages are deleted from the channels' streams; 0 means no limit.
        retry_max_bytes: the size of each stream of retries, where an account requires one. A full one accepts no more
            and its subscription waits; 0 means no limit. With a limit the servers do not keep retries until they are
            due.
        dead_letter_max_bytes: the same for each stream of dead letters.
        lease_max_bytes: the same for the stream of leases and positions, one for all subscriptions.
        dedup_window_s: how long the servers remember message ids, so that nothing repeated is stored twice; in the
            channels' streams at most `max_age_s`.
        scheduled_retries: let the servers keep retries until they are due, where they can (2.12). Otherwise a worker
            receives each retry when it is written and returns it until it is due.
        ack: ``confirmed`` waits for the server's answer (one per batch), ``fast`` does not.
        ack_wait_s: how long a process may be silent before its deliveries go to others.
        max_ack_pending: the most deliveries in flight per channel, all processes of a subscription together.
        timeout_s: how long one call may take before the broker counts as unavailable.
        ping_interval_s: how often a silent server is pinged; after two more intervals it counts as lost.
        client_name: the worker's name in the servers' monitoring.
        wire: the format of records: the worker's own headers, hexa-event's, or CloudEvents.
    """

    servers: Annotated[tuple[str, ...], Meta(min_length=1)] = ("nats://127.0.0.1:4222",)
    user: str | None = None
    password: Secret | None = None
    token: Secret | None = None
    nkey_file: str | None = None
    creds_file: str | None = None
    tls: NatsTls | None = None
    create_channels: bool = True
    create_emitted_channels: bool = False
    max_emitted_channels: Annotated[int, Meta(ge=1)] = 100
    create_retry_channels: bool = True
    streams: tuple[NatsStream, ...] = ()
    storage: Literal["file", "memory"] = "file"
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    max_age_s: Annotated[float, Meta(ge=0)] = 0.0
    max_bytes: Annotated[int, Meta(ge=0)] = 0
    retry_max_bytes: Annotated[int, Meta(ge=0)] = 0
    dead_letter_max_bytes: Annotated[int, Meta(ge=0)] = 0
    lease_max_bytes: Annotated[int, Meta(ge=0)] = 0
    dedup_window_s: Annotated[float, Meta(ge=0.1)] = 120.0
    scheduled_retries: bool = True
    ack: Acknowledge = "confirmed"
    ack_wait_s: Annotated[float, Meta(ge=1)] = 30.0
    max_ack_pending: Annotated[int, Meta(ge=1)] = 50_000
    timeout_s: Duration = 10.0
    ping_interval_s: Duration = 2.0
    client_name: str = "hexa-worker"
    wire: Wire = "plain"

    def __post_init__(self) -> None:
        for place, server in enumerate(self.servers):
            # The client reads logins as they are, without percent, so there is no other way to write these.
            if is_ambiguous(server) or ("@" in server and "://" not in server):
                hint = "use user and password, or token, in [broker]"
                raise ValueError(f"the address servers[{place}] must have its login apart ({hint})")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        ways = [self.user, self.token, self.nkey_file, self.creds_file]
        if sum(way is not None for way in ways) > 1:
            raise ValueError("only one of user, token, nkey_file and creds_file can be used")
        if 0 < self.max_age_s < SHORTEST_AGE_S:
            raise ValueError(f"max_age_s must be 0 or at least {SHORTEST_AGE_S:g}: servers take nothing shorter")


class NatsSubscription(NatsTable, frozen=True):
    """Options of one subscription that differ from the broker's table.

    Attributes:
        stream: the stream that must hold its channels; otherwise the start fails. Default: any.
        durable: a durable pull consumer that exists, to be taken over: the subscription reads its one channel through
            it, from where it stands. Default: a durable of its own.
        start_at: where a subscription without progress begins, as a time with its offset
            (``2026-01-31T12:00:00+00:00``), instead of `start`. Default: as start says.
        start_sequence: the same as the sequence in its stream of the first message to handle; for one channel only.
            Default: as start says.
        ack: as in the broker's table. Default: the broker's.
        ack_wait_s: as in the broker's table. Default: the broker's.
        max_ack_pending: as in the broker's table. Default: the broker's.
    """

    stream: StreamName | None = None
    durable: StreamName | None = None
    start_at: str | None = None
    start_sequence: Annotated[int, Meta(ge=1)] | None = None
    ack: Acknowledge | None = None
    ack_wait_s: Annotated[float, Meta(ge=1)] | None = None
    max_ack_pending: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        if sum(way is not None for way in (self.durable, self.start_at, self.start_sequence)) > 1:
            raise ValueError("only one of durable, start_at and start_sequence can be used")

"""One connection for everything a process does: kept up for ever, watched, with batched requests.

nats-py connects, logs in and encrypts; its own reconnecting is off. When the connection ends, for whatever reason,
a new client is made, the subscriptions of our sinks are put up again and everybody who waits for an answer is told.
"""

import asyncio
import itertools
import json
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from nats.aio.client import Client, Srv
from nats.errors import Error as NatsError

from hexa_worker.backoff import Backoff
from hexa_worker.config.nats import Nats
from hexa_worker.drivers.nats import errors
from hexa_worker.drivers.nats.client_internals import (
    KnowingClient,
    close_client,
    equip,
    members_of,
    server_info,
    writer_of,
)
from hexa_worker.drivers.nats.errors import ApiError
from hexa_worker.drivers.nats.protocol import Frame, FrameParser, Sink, SubjectSubscription, status_of
from hexa_worker.drivers.nats.requests import REFUSED, Answers, RequestMux
from hexa_worker.drivers.nats.security import connect_options
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

CONNECT_S = 4.0
SILENT_PINGS = 2.5
READ_BUFFER = 512 * 1024
NO_RESPONDERS = 503
FORBIDDEN = 403
_FIRST_SID = 1_000_000
_VIOLATION = re.compile(
    r'permissions violation for (?P<what>publish|subscription) to "(?P<subject>[^"]+)"', re.IGNORECASE
)

log = logging.getLogger("hexa_worker.drivers.nats")


class NatsConnection:
    """A connection that is always there or on its way back.

    Args:
        options: the broker's table.
        folder: what files in it are relative to.

    Attributes:
        generation: counts connections; 0 before the first.
        info: what the server said about itself.
    """

    def __init__(self, options: Nats, folder: Path) -> None:
        self.options = options
        self.generation = 0
        self.info: dict[str, Any] = {}
        self._folder = folder
        self._client: Client | None = None
        self._parser: FrameParser | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._up = asyncio.Event()
        self._failure: DriverError = DriverUnavailable("not connected")
        self._deaf: DriverRejected | None = None
        self._closed = False
        self._served = False  # by JetStream, ever
        self._members: Sequence[Srv] = ()
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._sids = itertools.count(_FIRST_SID)
        self._subscribed: dict[bytes, SubjectSubscription] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[bool], None]] = []
        self._requests = RequestMux(options.timeout_s, errors.addresses(options.servers))
        self._requests.inbox = self.subscribe(self._requests.deliver).inbox

    # -- its life

    @property
    def up(self) -> bool:
        """Connected, as far as is known."""
        return self._up.is_set()

    @property
    def max_payload(self) -> int:
        """Bytes of headers and payload that the server takes."""
        return int(self.info.get("max_payload", 1024 * 1024))

    @property
    def version(self) -> tuple[int, int]:
        """Version of the server."""
        parts = str(self.info.get("version", "0.0")).split(".")
        return int(parts[0]), int(parts[1])

    async def open(self) -> None:
        """Connect. Raises DriverUnavailable, DriverRejected, ConfigError."""
        self._closed = False
        if self.up:
            return
        await self._connect()
        self._start(self._watch())

    async def close(self) -> None:
        """Close. Idempotent; never raises for a dead server."""
        self._closed = True
        client = self._drop(DriverUnavailable("the connection is closed"))
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if client is not None:
            await close_client(client)

    def abort(self) -> None:
        """Vanish as a killed process does: no goodbye, nothing flushed."""
        self._closed = True
        if self._writer is not None:
            self._writer.transport.abort()
        self._drop(DriverUnavailable("the connection was aborted"))
        for task in self._tasks:
            task.cancel()

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """Call `listener` with True after each reconnection and with False after each loss."""
        self._listeners.append(listener)

    def forget(self, listener: Callable[[bool], None]) -> None:
        """Undo `on_change`."""
        with suppress(ValueError):
            self._listeners.remove(listener)

    async def wait_up(self, within_s: float) -> None:
        """Wait until connected. Raises DriverUnavailable with the reason when it takes longer."""
        if self.up:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._up.wait()
        if not self.up:
            raise self._unavailable()

    def _unavailable(self) -> DriverUnavailable:
        return DriverUnavailable(str(self._failure))

    async def _connect(self) -> None:
        arguments = connect_options(self.options, self._folder)
        client = KnowingClient(self._members)
        parser = FrameParser(client)
        equip(client, parser)
        seen: list[Exception] = []

        async def failed(error: Exception) -> None:  # nats-py wants a coroutine
            seen.append(error)
            if isinstance(error, NatsError) and "permissions violation" in str(error):
                log.warning("nats refuses something: %s", str(error).removeprefix("nats: "))

        async def ended() -> None:  # nats-py wants a coroutine
            self._lost(client, seen[-1] if seen else None)

        try:
            async with asyncio.timeout(CONNECT_S):
                await client.connect(
                    servers=list(self.options.servers),
                    name=self.options.client_name,
                    error_cb=failed,
                    closed_cb=ended,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=2,
                    ping_interval=24 * 3600,  # `_watch` does it
                    **arguments,
                )
                if not client.is_connected:
                    raise ConnectionResetError(0, "the connection ended while logging in")
        except (OSError, NatsError, TimeoutError, ValueError, asyncio.CancelledError) as error:
            await close_client(client)
            if isinstance(error, asyncio.CancelledError) and _asked_to_cancel():
                raise
            cause = next((one for one in reversed(seen) if not isinstance(one, TimeoutError)), error)
            self._failure = errors.connecting(cause, self.options.servers, first=not self.generation)
            raise self._failure from cause
        self._adopt(client, parser)

    def _adopt(self, client: Client, parser: FrameParser) -> None:
        self._client, self._parser = client, parser
        self.info = server_info(client)
        if not self.info.get("jetstream", False):
            log.warning("the nats server at %s runs without JetStream", errors.addresses(self.options.servers))
        self._writer = writer_of(client, READ_BUFFER)
        parser.sinks = {sid: one.sink for sid, one in self._subscribed.items()}
        parser.refused = self._refused
        parser.informed = partial(self._informed, client)
        self._informed(client, self.info)
        self._deaf = None
        self.generation += 1
        self._up.set()
        self.write(b"".join([one.command for one in self._subscribed.values()]))
        if not self.up:
            return  # lost already
        for listener in tuple(self._listeners):
            listener(True)  # noqa: FBT003 - see on_change

    def _informed(self, client: Client, info: dict[str, Any]) -> None:
        """The server tells who else is in its cluster: one of them will do when it is gone."""
        self._members = members_of(client, info) or self._members

    def _drop(self, failure: DriverError) -> Client | None:
        """Note that there is no connection; returns the client that was."""
        client, self._client, self._parser, self._writer = self._client, None, None, None
        self._failure = failure
        self._up.clear()
        self._requests.fail(self._unavailable())
        for listener in tuple(self._listeners):
            listener(False)  # noqa: FBT003 - see on_change
        return client

    def _lost(self, client: Client, error: Exception | None) -> None:
        if client is not self._client or self._closed:
            return
        failure = errors.connecting(error or ConnectionResetError(0, "the connection ended"), self.options.servers)
        log.warning("connection lost: %s", failure)
        self._drop(failure)
        self._start(close_client(client))
        self._start(self._reconnect())

    async def _reconnect(self) -> None:
        backoff = Backoff(first_s=0.02)
        while not self._closed:
            try:
                await self._connect()
            except DriverError:
                await backoff.wait()
            except Exception:  # a file that vanished, for example: it may come back
                log.exception("cannot reconnect, trying again")
                await asyncio.sleep(1.0)
            else:
                log.info("connected again to nats %s", self.info.get("version", ""))
                return

    async def _watch(self) -> None:
        """Ask a silent server whether it lives; give the connection up when it does not say so."""
        interval_s = self.options.ping_interval_s
        while not self._closed:
            await asyncio.sleep(interval_s)
            parser, client = self._parser, self._client
            if parser is None or client is None:
                continue
            silent_s = monotonic() - parser.heard_at
            if silent_s > SILENT_PINGS * interval_s:
                self._lost(client, TimeoutError())
            elif silent_s > interval_s / 2:
                self._ping(parser)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what it is for

    def write(self, data: bytes) -> None:
        """Send frames; they are lost when the connection is."""
        writer, client = self._writer, self._client
        if writer is None or client is None:
            return
        try:
            if not writer.is_closing():
                writer.write(data)
                return
        except (OSError, RuntimeError):  # uvloop: the handle is closed
            log.debug("written to a closed connection", exc_info=True)
        self._lost(client, None)  # nats-py has not noticed yet

    def subscribe(self, sink: Sink) -> SubjectSubscription:
        """Give `sink` an inbox; it is subscribed again after each reconnection."""
        sid = next(self._sids)
        one = SubjectSubscription(f"{self._inbox}.{sid - _FIRST_SID}", sid, sink)
        self._subscribed[one.sid] = one
        if self._parser is not None:
            self._parser.sinks[one.sid] = sink
        self.write(one.command)
        return one

    def unsubscribe(self, one: SubjectSubscription) -> None:
        """Ask the server to send no more; what is under way still arrives until `forget_sink`."""
        if self._subscribed.pop(one.sid, None) is not None:
            self.write(b"UNSUB %s\r\n" % one.sid)

    def forget_sink(self, one: SubjectSubscription) -> None:
        """Drop whatever still arrives for it."""
        if self._parser is not None:
            self._parser.sinks.pop(one.sid, None)

    async def flush(self, within_s: float) -> bool:
        """Wait until the server has seen everything written; False when it did not say so in time."""
        parser = self._parser
        if parser is None:
            return False
        try:
            async with asyncio.timeout(within_s):
                await self._ping(parser)
        except TimeoutError:
            return False
        return True

    def _ping(self, parser: FrameParser) -> asyncio.Future[None]:
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        parser.pongs.append(pong)
        self.write(b"PING\r\n")
        return pong

    def expect(self, subjects: Sequence[bytes]) -> tuple[Answers, Sequence[bytes]]:
        """Reply subjects for requests to `subjects`, and where their answers gather.

        Raises:
            DriverUnavailable: there is no connection.
            DriverRejected: this login may not receive answers.
        """
        if not self.up:
            raise self._unavailable()
        if self._deaf is not None:
            raise self._deaf
        return self._requests.expect(subjects)

    async def gather(self, answers: Answers) -> None:
        """Wait until every answer is there, as long as they keep coming.

        Raises:
            DriverUnavailable: none came for `timeout_s`, or the connection ended.
        """
        await self._requests.gather(answers)

    def _refused(self, text: str) -> None:
        """The server refuses something for want of rights: whoever waits for it need not wait longer."""
        found = _VIOLATION.search(text)
        if found is None:
            return
        if found["what"].lower() != "subscription":
            self._requests.refuse(found["subject"].encode())
        elif found["subject"].startswith(self._inbox):
            self._deaf = DriverRejected(
                f"nats at {errors.addresses(self.options.servers)}: this login may not subscribe to _INBOX.>"
            )

    async def request(self, subject: str, payload: bytes) -> Frame:
        """Ask one question.

        Raises:
            DriverUnavailable: no answer.
            DriverRejected: no right to ask it.
        """
        await self.wait_up(self.options.timeout_s)
        answers, replies = self.expect([subject.encode()])
        self.write(b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), replies[0], len(payload), payload))
        await self.gather(answers)
        frame = answers.frames[0]
        assert frame is not None  # noqa: S101 - gather returned
        if frame is REFUSED:
            raise DriverRejected(
                f"nats at {errors.addresses(self.options.servers)}: this login may not publish to {subject!r}"
            )
        return frame

    async def api(self, action: str, **body: Any) -> dict[str, Any]:
        """Ask JetStream.

        Raises:
            ApiError: it answered with an error.
            DriverUnavailable, DriverRejected: as `request`.
        """
        frame = await self.request(f"$JS.API.{action}", json.dumps(body).encode() if body else b"")
        if status_of(frame[2])[0] == NO_RESPONDERS:
            if not self.info.get("jetstream", False) and not self._served:
                raise DriverRejected(
                    f"nats at {errors.addresses(self.options.servers)}: JetStream is not enabled (jetstream {{}} in "
                    "the server's configuration)"
                )
            raise DriverUnavailable(f"nats at {errors.addresses(self.options.servers)}: JetStream does not answer")
        answer: dict[str, Any] = json.loads(frame[3])
        if "error" in answer:
            raise ApiError(answer["error"], served=self._served)
        self._served = True
        return answer


def _asked_to_cancel() -> bool:
    """Whether a CancelledError is meant for this task: foreign ones are failures."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

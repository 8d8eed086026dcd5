"""A TCP proxy between a broker and its clients that spoils the network, switchable at run time.

It runs its own event loop in a daemon thread; every method may be called from any thread. What it cannot imitate
from user space: a lost SYN. New connections are accepted even in a black hole, and then never answered.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Self

_CHUNK = 65_536
_QUEUED_CHUNKS = 64
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Weather:
    """What the proxy does to every connection, in both directions.

    Attributes:
        delay_s: each byte arrives this much later; the bandwidth stays.
        bytes_per_s: bandwidth of each direction of each connection; None: unlimited.
        slice_bytes: bytes arrive in pieces of at most this size, a millisecond apart; None: as they come.
        black_hole: nothing arrives; what was sent is held, as TCP would, and arrives when it is over.
        refuse: new connections are reset at once.
        cut_after_bytes: a connection is reset once this many further bytes went through it; None: never.
    """

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    slice_bytes: int | None = None
    black_hole: bool = False
    refuse: bool = False
    cut_after_bytes: int | None = None


FAIR = Weather()


class Proxy:
    """A proxy on one loopback port in front of one address.

    Args:
        upstream: host and port of the broker.
        port: its own port; 0: any.
        tls: present this certificate to clients and talk plainly to the broker (for brokers that cannot be given
            a bad certificate themselves).
    """

    def __init__(self, upstream: tuple[str, int], *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.upstream = upstream
        self.port = port
        self.accepted = 0
        """Connections accepted since the start."""
        self.forwarded = 0
        """Bytes that went through, both directions."""
        self._tls = tls
        self._weather = FAIR
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="broker-proxy", daemon=True)

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._links)

    @property
    def weather(self) -> Weather:
        """What it does now."""
        return self._weather

    def start(self) -> Self:
        """Listen; returns itself."""
        self._thread.start()
        self._call(self._listen)
        return self

    def close(self) -> None:
        """Reset all connections and stop listening."""
        if not self._thread.is_alive():
            return
        self._call(self._shut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def delay(self, seconds: float) -> None:
        """Let every byte arrive this much later."""
        self._set(replace(self._weather, delay_s=seconds))

    def throttle(self, bytes_per_s: float) -> None:
        """Limit the bandwidth of each direction of each connection."""
        self._set(replace(self._weather, bytes_per_s=bytes_per_s))

    def slice(self, max_bytes: int) -> None:
        """Deliver in pieces of at most this size."""
        self._set(replace(self._weather, slice_bytes=max_bytes))

    def black_hole(self) -> None:
        """Let nothing through, in silence, until `heal`."""
        self._set(replace(self._weather, black_hole=True))

    def refuse(self) -> None:
        """Reset all connections, and new ones at once, until `heal`."""
        self._set(replace(self._weather, refuse=True))
        self.cut()

    def cut(self, after_bytes: int = 0) -> None:
        """Reset all connections (RST): now, or each once that many further bytes went through it."""
        if after_bytes:
            self._set(replace(self._weather, cut_after_bytes=after_bytes))
        else:
            self._call(self._cut)

    def heal(self) -> None:
        """Fair weather again; what a black hole held back arrives now."""
        self._set(FAIR)

    def _set(self, weather: Weather) -> None:
        async def change() -> None:
            self._weather = weather
            for link in self._links:
                link.passed = 0
            self._changed.set()
            self._changed = asyncio.Event()

        self._call(change)

    def _call(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(function(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(self, writer)
        self._links.add(link)
        try:
            if not self._weather.refuse:
                await self._run(link, reader)
        except* OSError:
            pass  # one side went away, so the other must
        finally:
            link.abort()
            self._links.discard(link)

    @staticmethod
    async def _run(link: "_Link", reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # by `_Link.reset`; asyncio's server cannot bear it
            await link.run(reader)

    async def wait_passable(self) -> None:
        """Return when there is no black hole; for the links of this proxy."""
        while self._weather.black_hole:
            await self._changed.wait()


class _Link:
    """One client connection with its connection to the broker."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter) -> None:
        self.passed = 0
        self._proxy = proxy
        self._writers = [client]
        self._task = asyncio.current_task()

    async def run(self, client_reader: asyncio.StreamReader) -> None:
        await self._proxy.wait_passable()
        reader, writer = await asyncio.open_connection(*self._proxy.upstream)
        self._writers.append(writer)
        async with asyncio.TaskGroup() as group:
            for source, target in ((client_reader, writer), (reader, self._writers[0])):
                queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_CHUNKS)
                group.create_task(self._collect(source, queue))
                group.create_task(self._deliver(queue, target))

    def reset(self) -> None:
        """Close both sides with RST and end, whatever it waits for."""
        self.abort()
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """Close both sides with RST."""
        for writer in self._writers:
            if (raw := writer.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()

    async def _collect(self, source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            data = await source.read(_CHUNK)
            await queue.put((time.monotonic(), data))
            if not data:
                return

    async def _deliver(self, queue: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter) -> None:
        while True:
            came, data = await queue.get()
            left = came + self._proxy.weather.delay_s - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
            await self._proxy.wait_passable()
            if not data:
                with contextlib.suppress(OSError, RuntimeError):
                    if target.can_write_eof():
                        target.write_eof()
                    else:
                        target.close()
                return
            await self._write(data, target)

    async def _write(self, data: bytes, target: asyncio.StreamWriter) -> None:
        start = 0
        while start < len(data):
            weather = self._proxy.weather
            size = weather.slice_bytes or (2048 if weather.bytes_per_s else len(data))
            if weather.cut_after_bytes is not None:
                size = min(size, weather.cut_after_bytes - self.passed)
            piece = data[start : start + size]
            await self._proxy.wait_passable()
            start += len(piece)
            self.passed += len(piece)
            self._proxy.forwarded += len(piece)
            target.write(piece)
            await target.drain()
            if weather.cut_after_bytes is not None and self.passed >= weather.cut_after_bytes:
                self.reset()
                return
            if weather.bytes_per_s:
                await asyncio.sleep(len(piece) / weather.bytes_per_s)
            elif weather.slice_bytes:
                await asyncio.sleep(0.001)

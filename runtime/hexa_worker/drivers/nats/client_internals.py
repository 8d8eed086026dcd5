"""All that is private in nats-py and used here: nothing else in this package touches such a name.

`tests/unit/test_nats_client_internals.py` says what the pinned release must have for it.
"""
# ruff: noqa: SLF001 - what this module is for

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser

CLOSE_S = 2.0


class Transport(TcpTransport):
    """Sends CONNECT and PING as one.

    A server that refuses a login hangs up after its answer to the first, and writing the second would lose that.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._greeting = b""
        self._greeted = False

    def __bool__(self) -> bool:
        return True  # nats-py replaces what is false

    async def connect_tls(self, *args: Any, **options: Any) -> None:
        """Encrypt; nats-py forgets to tell asyncio's reader, which then complains at each end of a connection."""
        await super().connect_tls(*args, **options)
        self._io_writer._protocol._over_ssl = True  # type: ignore[union-attr] # asyncio offers no way

    def write(self, payload: bytes) -> None:
        """Send, or keep back what is sent with the next piece."""
        if not self._greeted:
            self._greeting += payload
            if not self._greeting.endswith(b"PING\r\n"):
                return
            payload, self._greeted = self._greeting, True
        super().write(payload)  # type: ignore[no-untyped-call]


def equip(client: Client, parser: Parser) -> None:
    """Give a client our parser and transport, before it connects.

    There is no other way to see frames before they are messages, and to send the first words as one.
    """
    client._ps = parser
    client._transport = Transport()


def server_info(client: Client) -> dict[str, Any]:
    """What the server has said of itself; public are only its version and its payload limit."""
    return dict(client._server_info)


def writer_of(client: Client, read_buffer: int) -> asyncio.StreamWriter:
    """Where batches of a connected client are written whole.

    Args:
        client: the client.
        read_buffer: bytes that are read before the socket is paused; with asyncio's few it is paused often.
    """
    transport: Any = client._transport
    transport._io_reader._limit = read_buffer
    writer: asyncio.StreamWriter = transport._io_writer
    return writer


async def ping_came(client: Any) -> None:
    """Have the client answer a ping, as its own parser does."""
    await client._process_ping()


async def info_came(client: Any, info: dict[str, Any]) -> None:
    """Tell the client what the server says of itself and its cluster, as its own parser does."""
    await client._process_info(info)


async def error_came(client: Any, text: str) -> None:
    """Tell the client what the server refuses, in small letters, as its own parser does."""
    await client._process_err(text)


class KnowingClient(Client):
    """Tries servers of a cluster that an earlier client was told of, too, beside those it is given.

    Args:
        known: these servers, see `members_of`.
    """

    def __init__(self, known: Sequence[Srv]) -> None:
        super().__init__()
        self._known = known

    def _setup_server_pool(self, connect_url: list[str]) -> None:
        super()._setup_server_pool(connect_url)
        given = {server.uri.netloc.rpartition("@")[2] for server in self._server_pool}
        seed = self._server_pool[0].uri
        login, at, _ = seed.netloc.rpartition("@")
        for server in self._known:
            place = server.uri.netloc.rpartition("@")[2]
            if place not in given:
                uri = server.uri._replace(scheme=seed.scheme, netloc=f"{login}{at}{place}")
                self._server_pool.append(Srv(uri, discovered=True, tls_name=server.tls_name))


def members_of(client: Client, info: Mapping[str, Any]) -> Sequence[Srv]:
    """The servers of the cluster, as the one that `client` is connected to has just told."""
    told = set(info.get("connect_urls") or ())
    return [server for server in client._server_pool if server.uri.netloc.rpartition("@")[2] in told]


async def close_client(client: Client) -> None:
    """Close a client of nats-py, however dead its server; its transport first, because draining it may hang."""
    transport = client._transport  # nats-py offers no way to drop a connection
    writer = getattr(transport, "_io_writer", None)
    client._pending_data_size = 0  # nothing is worth waiting for
    if writer is not None:
        writer.close()
    task = asyncio.get_running_loop().create_task(client.close())
    await asyncio.wait([task], timeout=CLOSE_S)
    if writer is not None:
        writer.transport.abort()
    if task.done():
        with suppress(BaseException):
            task.result()
    else:
        task.cancel()

"""What of nats-py is private and used all the same: a release that changes it is to fail here, by name."""

import asyncio
import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport

from hexa_worker.drivers.nats import client_internals

SEEN = "2.16."
"""The releases that this was seen with."""


def test_the_release_is_one_that_this_was_seen_with() -> None:
    assert version("nats-py").startswith(SEEN)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("_server_info", dict), ("_server_pool", list), ("_pending_data_size", int)],
)
def test_a_client_has_what_is_read_and_set(name: str, kind: type) -> None:
    assert isinstance(getattr(Client(), name), kind)


def test_a_client_keeps_the_parser_and_the_transport_that_it_is_given() -> None:
    client = Client()
    parser = client._ps
    client_internals.equip(client, parser)
    assert client._ps is parser
    assert isinstance(client._transport, client_internals.Transport)
    source = inspect.getsource(Client)
    assert "self._ps.parse(" in source
    assert "if not self._transport:" in source, "it would make a transport of its own"


@pytest.mark.parametrize(
    ("name", "parameters"), [("_process_ping", []), ("_process_info", ["info"]), ("_process_err", ["err_msg"])]
)
def test_a_client_takes_what_its_parser_tells(name: str, parameters: list[str]) -> None:
    method = getattr(Client(), name)
    assert inspect.iscoroutinefunction(method)
    assert [*inspect.signature(method).parameters][: len(parameters)] == parameters


def test_a_client_fills_its_pool_before_it_connects() -> None:
    client = client_internals.KnowingClient([Srv(urlparse("nats://other:2"))])
    client._setup_server_pool(["nats://user:word@one:1"])
    assert [server.uri.netloc for server in client._server_pool] == ["user:word@one:1", "user:word@other:2"]


def test_a_transport_has_streams_of_asyncio() -> None:
    transport = client_internals.Transport()
    assert (transport._io_reader, transport._io_writer) == (None, None)
    assert "_io_writer" in inspect.getsource(TcpTransport.write)


async def _streams() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    streams: tuple[Any, Any] = await asyncio.open_connection(*server.sockets[0].getsockname())
    reader, writer = streams
    assert isinstance(reader._limit, int)
    assert writer._protocol._over_ssl is False
    writer.close()
    server.close()


def test_the_streams_have_a_limit_and_know_of_encryption() -> None:
    asyncio.run(_streams())


def test_no_other_module_of_the_driver_touches_a_private_name() -> None:
    folder = Path(client_internals.__file__).parent
    waived = [path.name for path in folder.glob("*.py") if "SLF001" in path.read_text()]
    assert waived == ["client_internals.py"]

"""The proxy spoils the network in the way it says, in front of an echo server."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.certs import Certificates
from tests.lab.ports import reserve_port
from tests.lab.proxy import Proxy


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(65_536):
                connection.sendall(data)
        except OSError:
            pass


@pytest.fixture
def proxy(echo: tuple[str, int]) -> Iterator[Proxy]:
    with Proxy(echo).start() as started:
        yield started


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
        _round_trip(connection, b"hello")
        yield connection


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = connection.recv(size - len(received))
        if not data:
            break  # the other side closed in the orderly way
        received += data
    return received


def _send(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # whoever receives sees it, too
        connection.sendall(data)


def _round_trip(connection: socket.socket, data: bytes) -> float:
    """Send and get back; the seconds it took."""
    started = time.monotonic()
    sender = threading.Thread(target=_send, args=(connection, data))
    sender.start()
    assert _receive(connection, len(data)) == data
    sender.join()
    return time.monotonic() - started


def _ask(proxy: Proxy) -> bytes:
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
        connection.sendall(b"?")
        return connection.recv(1)


def test_fair_weather_changes_nothing(proxy: Proxy, client: socket.socket) -> None:
    data = bytes(range(256)) * 20_000
    _round_trip(client, data)
    assert proxy.forwarded == 2 * (len(data) + len(b"hello"))
    assert proxy.accepted == proxy.connections == 1


def test_half_closed_connection_still_answers(client: socket.socket) -> None:
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert _receive(client, 100) == b"last words"


def test_delay_adds_latency_in_each_direction_and_keeps_bandwidth(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.1)
    assert _round_trip(client, b"x") >= 0.2
    assert _round_trip(client, bytes(2_000_000)) < 6.2  # were each 64 KiB delayed by itself


def test_throttle_limits_bandwidth(proxy: Proxy, client: socket.socket) -> None:
    proxy.throttle(100_000)
    assert _round_trip(client, bytes(30_000)) >= 0.2


def test_slices_arrive_one_by_one(proxy: Proxy, client: socket.socket) -> None:
    data = bytes(range(200))
    proxy.slice(2)
    started = time.monotonic()
    client.sendall(data)
    pieces = [client.recv(100)]
    while sum(map(len, pieces)) < len(data):
        pieces.append(client.recv(100))
    assert b"".join(pieces) == data
    assert len(pieces) > 5
    assert time.monotonic() - started >= 0.1  # 100 slices, a millisecond apart


def test_black_hole_holds_bytes_back_and_loses_none(proxy: Proxy, client: socket.socket) -> None:
    proxy.black_hole()
    client.sendall(b"into the dark")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)
    proxy.heal()
    assert _receive(client, 13) == b"into the dark"


def test_new_connection_into_a_black_hole_is_served_after_it(proxy: Proxy) -> None:
    proxy.black_hole()
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as late:
        late.sendall(b"anybody?")
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.recv(1)
        late.settimeout(10)
        proxy.heal()
        assert _receive(late, 8) == b"anybody?"


def test_cut_resets_connections_and_lets_new_ones_in(proxy: Proxy, client: socket.socket) -> None:
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as again:
        _round_trip(again, b"hello")
        assert proxy.connections == 1


def test_cut_ends_a_connection_that_waits_in_a_black_hole(proxy: Proxy, client: socket.socket) -> None:
    proxy.black_hole()
    client.sendall(b"into the dark")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_cut_after_some_bytes_happens_in_the_middle_of_a_message(proxy: Proxy, client: socket.socket) -> None:
    proxy.cut(after_bytes=1000)
    client.sendall(bytes(1000))
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        _receive(client, 1000)
    assert proxy.forwarded == 1000 + 2 * len(b"hello")


def test_refuse_resets_old_and_new_connections_until_healed(proxy: Proxy, client: socket.socket) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        _ask(proxy)
    proxy.heal()
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as again:
        _round_trip(again, b"hello")


def test_dead_broker_looks_like_a_reset() -> None:
    nobody = reserve_port()
    with (
        Proxy(("127.0.0.1", nobody.number)).start() as proxy,
        pytest.raises((ConnectionResetError, BrokenPipeError)),
    ):
        _ask(proxy)
    nobody.release()


def test_tls_front_shows_the_certificate_it_was_given(echo: tuple[str, int], tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    trust = ssl.create_default_context(cafile=certificates.ca)
    for kind, refusal in (("server", None), ("expired", "expired"), ("wrong-host", "127.0.0.1")):
        pair = certificates.server_pair(kind)
        front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        front.load_cert_chain(pair.cert, pair.key)
        with (
            Proxy(echo, tls=front).start() as proxy,
            socket.create_connection(("127.0.0.1", proxy.port), 10) as raw,
        ):
            if refusal is None:
                with trust.wrap_socket(raw, server_hostname="127.0.0.1") as secured:
                    _round_trip(secured, b"secret")
            else:
                with pytest.raises(ssl.SSLCertVerificationError, match=refusal):
                    trust.wrap_socket(raw, server_hostname="127.0.0.1")

"""The first words of Pulsar's binary protocol: enough to tell whether a broker lets somebody in.

The client library says of a refused login that no answer came, after its whole time is over. A broker asked by hand
says what it thinks at once.
"""

import socket

from hexa_worker.errors import DriverRejected, DriverUnavailable

_CONNECT, _ERROR = 2, 14
_PROTOCOL_VERSION = 19
_LARGEST = 5 * 1024 * 1024


def greet(connection: socket.socket, where: str, *, method: str = "", data: bytes = b"") -> None:
    """Log in on a fresh connection.

    Args:
        connection: to a broker, with a timeout.
        where: how errors call it.
        method: how to log in: ``token``, ``tls`` or nothing.
        data: the token.

    Raises:
        DriverRejected: the login is refused, or something else than Pulsar answers.
        DriverUnavailable: the other side hung up.
        OSError: as usual.
    """
    connection.sendall(_connect(method, data))
    head = _receive(connection, 8)
    if not head:
        raise DriverUnavailable(f"{where}: it hung up without an answer (does it want TLS? is it going down?)")
    total, size = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
    if len(head) < 8 or total != size + 4 or size > _LARGEST:  # noqa: PLR2004 - two lengths
        raise DriverRejected(f"{where}: what answers there does not speak Pulsar's protocol (is it the right port?)")
    command = _receive(connection, min(size, 2))
    if len(command) == 2 and command[0] == 0x08 and command[1] == _ERROR:  # noqa: PLR2004 - field 1, a number
        raise DriverRejected(f"{where}: the login was refused (token or client certificate)")


def _connect(method: str, data: bytes) -> bytes:
    """The frame of a command ``CONNECT``."""
    fields = _text(1, b"hexa-worker") + b"\x20" + bytes([_PROTOCOL_VERSION])
    if method:
        fields += _text(3, data) + _text(5, method.encode())
    command = bytes([0x08, _CONNECT]) + _text(2, fields)
    return (len(command) + 4).to_bytes(4, "big") + len(command).to_bytes(4, "big") + command


def _text(field: int, value: bytes) -> bytes:
    """A field with a length, in protobuf's encoding."""
    length, encoded = len(value), bytearray([field << 3 | 2])
    while length > 0x7F:  # noqa: PLR2004 - 7 bits to a byte
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded) + value


def _receive(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer if the other side hangs up."""
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            break
        received += part
    return received

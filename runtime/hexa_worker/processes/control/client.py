"""The other end of the control socket: what a command asks a running worker."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import msgspec

from hexa_worker.errors import HexaWorkerError
from hexa_worker.processes.control.messages import VERSION, Accepted, Done, Refused, Reply, Request, write_line
from hexa_worker.processes.control.socket_path import reachable

ANSWER_S: Final = 10.0
"""A worker that says nothing for so long is stuck."""
READ_SIZE: Final = 64 * 1024


class ControlError(HexaWorkerError):
    """The worker cannot be asked, or refuses."""


_replies = msgspec.json.Decoder(Reply)


class ControlClient:
    """A connection to a running worker; a context manager.

    Args:
        path: its socket.

    Raises:
        ControlError: no worker listens there.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._buffer = b""
        try:
            with reachable(path) as short:
                self._socket.connect(short)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._socket.close()
            raise ControlError(
                f"no worker listens on {path} (is it running, as this user, with this state_dir?)"
            ) from error
        except OSError as error:
            self._socket.close()
            raise ControlError(f"the worker cannot be reached on {path}: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: Request, *, patience_s: float | None = ANSWER_S) -> Iterator[Accepted | Done]:
        """Ask, and give every answer; the last one is `Done`.

        Args:
            request: what is asked.
            patience_s: how long it may take after it was accepted; None: as long as it takes.

        Raises:
            ControlError: it is refused, or the worker does not answer.
        """
        try:
            self._socket.settimeout(ANSWER_S)
            self._socket.sendall(write_line(request))
            while True:
                reply = self._reply()
                if isinstance(reply, Refused):
                    raise ControlError(_refusal(reply))
                yield reply
                if isinstance(reply, Done):
                    return
                self._socket.settimeout(patience_s)
        except TimeoutError as error:
            raise ControlError("the worker does not answer") from error
        except OSError as error:
            raise ControlError(f"the worker has gone: {error.strerror or error}") from error

    def _reply(self) -> Reply:
        while b"\n" not in self._buffer:
            data = self._socket.recv(READ_SIZE)
            if not data:
                raise ControlError("the worker has closed the connection")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return _replies.decode(line)
        except msgspec.MsgspecError as error:
            raise ControlError(f"the worker's answer cannot be understood: {error}") from error


def _refusal(reply: Refused) -> str:
    if reply.code != "version":
        return reply.message
    spoken = ", ".join(map(str, reply.versions))
    return f"the worker speaks version {spoken} of the control socket, this command speaks {VERSION}: use its release"

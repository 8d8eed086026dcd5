"""Vendor errors to ours, in one line each, without secrets."""

import ssl
from collections.abc import Sequence
from typing import Any

from hexa_worker.core.scrubbing import scrub
from hexa_worker.drivers.kit.error_context import reason_of
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable, RecordTooLarge

_LOGIN = ("authorization violation", "authorization failed", "authentication", "user authentication expired")


def addresses(servers: Sequence[str]) -> str:
    """Server URLs as an error shows them."""
    return ", ".join(scrub(server) for server in servers)


def connecting(  # noqa: PLR0911 - one for each cause
    error: BaseException, servers: Sequence[str], *, first: bool = False
) -> DriverError:
    """What failing to connect with `error` means; the `first` time the address may be wrong."""
    where = f"nats at {addresses(servers)}"
    text = str(error).removeprefix("nats: ").strip("'\" ")
    if isinstance(error, ssl.SSLCertVerificationError):
        return DriverRejected(f"{where}: the server's certificate is not trusted: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "TLS failed").replace("_", " ").lower()
        return DriverRejected(f"{where}: TLS failed: {reason} (is the client's certificate what the server wants?)")
    if any(word in text.lower() for word in _LOGIN):
        return DriverRejected(f"{where}: the login was refused (user, password, token, nkey or creds)")
    if "expecting info" in text.lower() or "json parse" in text.lower() or "protocol" in text.lower():
        return DriverRejected(f"{where}: what answers there does not speak NATS, or wants TLS first")
    if isinstance(error, TimeoutError):
        return DriverUnavailable(f"{where}: no answer in time{' (is it a NATS port?)' if first else ''}")
    if isinstance(error, OSError):
        return DriverUnavailable(
            f"{where}: {reason_of(error)}{' (is it up, and is broker.servers right?)' if first else ''}"
        )
    return DriverUnavailable(f"{where}: {scrub(text) or type(error).__name__}")


class ApiError(Exception):
    """JetStream answered with an error.

    Args:
        error: as it said it.
        served: it has served this process before: if it is not enabled now, it is away.
    """

    def __init__(self, error: dict[str, Any], *, served: bool = False) -> None:
        super().__init__(str(error.get("description", "error without description")))
        self.code = int(error.get("code", 0))
        self.number = int(error.get("err_code", 0))
        self._final = frozenset() if served else _FINAL

    def as_driver_error(self, what: str) -> DriverError:
        """Ours; `what` was tried."""
        if self.number in _PASSING or (self.code == 503 and self.number not in self._final):  # noqa: PLR2004 - as HTTP's
            return DriverUnavailable(f"{what}: {self} ({self.number})")
        refused = RecordTooLarge if self.number in _TOO_LARGE else DriverRejected
        return refused(f"{what}: {self} ({self.number})")


STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
STREAM_NAME_IN_USE = 10058
SIZE_REQUIRED = 10113
NO_MESSAGE = 10037
_PASSING = frozenset({10008, 10009, 10023, 10074, 10077, 10164})
_TOO_LARGE = frozenset({10054, 10097})
"""The message, or its headers (more than 64 KiB of them)."""
_FINAL = frozenset({10039, 10076})
"""JetStream is not enabled, for the account or at all."""

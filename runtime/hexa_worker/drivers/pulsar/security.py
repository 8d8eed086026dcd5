"""TLS and login: from the options to what the client library wants, with one clear error for each thing wrong.

The client library says of every trouble with TLS that there is no connection, and tries on for long. So before it is
asked, the standard library shakes hands with the broker once, by the same rules, and says what is wrong.
"""

import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hexa_worker.config.pulsar import Pulsar
from hexa_worker.drivers.kit.error_context import reason_of
from hexa_worker.drivers.pulsar.handshake import greet
from hexa_worker.errors import ConfigError, DriverError, DriverRejected, DriverUnavailable
from hexa_worker.tls import UnusableFile, client_context

log = logging.getLogger("hexa_worker.drivers.pulsar")
_PORTS = {"pulsar": 6650, "pulsar+ssl": 6651}


class Security:
    """What the options say about security, with the files looked up.

    Args:
        options: the broker's table.
        folder: what files are relative to.

    Raises:
        ConfigError: a file cannot be read or is not what it should be.
    """

    def __init__(self, options: Pulsar, folder: Path) -> None:
        self.encrypted = options.url.startswith("pulsar+ssl://")
        self._options = options
        self._folder = folder
        self._warned = False
        tls = options.tls
        self._ca = None if tls.ca_file is None else str(folder / tls.ca_file)
        self._pair = (
            (str(folder / tls.cert_file), str(folder / tls.key_file)) if tls.cert_file and tls.key_file else None
        )

    @property
    def token(self) -> str | None:
        """The token to log in with, read anew where it comes from a file."""
        if self._options.token is not None:
            return self._options.token.reveal()
        if self._options.token_file is None:
            return None
        try:
            return (self._folder / self._options.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise ConfigError(
                f"cannot read {self._options.token_file!r}: {reason}", where="broker.token_file"
            ) from error

    def client_arguments(self) -> dict[str, Any]:
        """Arguments of ``pulsar.Client`` that have to do with security."""
        import pulsar  # noqa: PLC0415 - heavy

        made: dict[str, Any] = {}
        if self.token is not None:
            made["authentication"] = pulsar.AuthenticationToken(self._token_supplier())
        elif self._pair is not None:
            made["authentication"] = pulsar.AuthenticationTLS(*self._pair)
        if self.encrypted:
            insecure = self._options.tls.insecure
            made["tls_allow_insecure_connection"] = insecure
            made["tls_validate_hostname"] = not insecure
            made["tls_trust_certs_file_path"] = self._ca or ssl.get_default_verify_paths().cafile
            if self._pair is not None:
                made["tls_certificate_file_path"], made["tls_private_key_file_path"] = self._pair
        return made

    def _token_supplier(self) -> str | Callable[[], str]:
        if self._options.token_file is None:
            return self.token or ""
        last = self.token or ""

        def read() -> str:
            nonlocal last
            try:
                last = self.token or ""
            except ConfigError:
                log.warning("pulsar: broker.token_file cannot be read; the token read before is used")
            return last

        return read

    def context(self) -> ssl.SSLContext:
        """The same rules for the standard library.

        Raises:
            ConfigError: a file cannot be used.
        """
        tls = self._options.tls
        try:
            context = client_context(tls, self._folder)
        except UnusableFile as error:
            what = f"{tls.ca_file!r}" if error.key == "ca_file" else f"{tls.cert_file!r} with its key"
            raise ConfigError(f"cannot use {what}: {error.reason}", where=f"broker.tls.{error.key}") from error
        if tls.insecure and not self._warned:
            self._warned = True
            log.warning("pulsar: broker.tls.insecure is set: certificates and host names are not checked")
        return context

    def probe(self, timeout_s: float) -> None:
        """Reach one of the brokers, and find out what is wrong if that fails.

        Raises:
            DriverUnavailable: none can be reached.
            DriverRejected: TLS fails, or something else than Pulsar answers.
            ConfigError: a file of the options cannot be used.
        """
        token = self.token
        login = ("tls", b"") if self._pair is not None else ("", b"")
        if token is not None:
            login = ("token", token.encode())
        failure: DriverError = DriverUnavailable("pulsar: no address")
        for host, port in addresses(self._options.url):
            try:
                self._probe(host, port, timeout_s, login)
            except DriverError as error:
                failure = error
            else:
                return
        raise failure

    def _probe(self, host: str, port: int, timeout_s: float, login: tuple[str, bytes]) -> None:
        where = f"pulsar at {host}:{port}"
        try:
            with socket.create_connection((host, port), timeout=timeout_s) as plain:
                plain.settimeout(timeout_s)
                if not self.encrypted:
                    greet(plain, where, method=login[0], data=login[1])
                    return
                with self.context().wrap_socket(plain, server_hostname=host) as encrypted:
                    greet(encrypted, where, method=login[0], data=login[1])
        except ssl.SSLCertVerificationError as error:
            raise DriverRejected(f"{where}: its certificate is not trusted: {error.verify_message}") from error
        except ssl.SSLError as error:
            reason = (error.reason or "TLS failed").replace("_", " ").lower()
            raise DriverRejected(f"{where}: TLS failed: {reason} (is it a TLS port?)") from error
        except TimeoutError as error:
            raise DriverUnavailable(f"{where}: no answer in time (is it up, is it a Pulsar port?)") from error
        except OSError as error:
            raise DriverUnavailable(f"{where}: {reason_of(error)} (is it up, and is broker.url right?)") from error


def addresses(url: str) -> list[tuple[str, int]]:
    """Hosts and ports of a service URL."""
    scheme, _, hosts = url.partition("://")
    found: list[tuple[str, int]] = []
    for one in hosts.rstrip("/").split(","):
        parts = urlsplit(f"//{one}")
        found.append((parts.hostname or "", parts.port or _PORTS[scheme]))
    return found

"""Redis from Debian's package, append-only file on. A secure one has TLS and logins besides."""

import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.lab.base import Broker
from tests.lab.cache import need_program, run_tool
from tests.lab.logins import LIMITED, LIMITED_PASSWORD, PASSWORD

# Without fsync every answered command is in the page cache and survives SIGKILL; with the default (each second) Redis
# holds writes back while a sync is under way.
_CONFIG = """
bind 127.0.0.1
port {client}
dir "{data}"
daemonize no
appendonly yes
appendfsync no
save ""
"""
_SECURE = """
tls-port {tls}
tls-cert-file "{pair.cert}"
tls-key-file "{pair.key}"
tls-ca-cert-file "{ca}"
tls-auth-clients optional
requirepass {password}
user {limited} on >{limited_password} resetkeys ~* &* +@all -@admin -@write
"""


class Redis(Broker):
    """One Redis server.

    Args:
        root: its directory.
        secure: with TLS (port ``tls``) and logins; the plain port then wants a password, too.
        tls: which server certificate (`Certificates.server_pair`).
        dies_with_us: see `Broker`.
    """

    port_names = ("client", "tls", "proxy")
    ready_s = 30.0

    def __init__(self, root: Path, *, secure: bool = False, tls: str = "server", dies_with_us: bool = True) -> None:
        self._secure = secure
        self._tls = tls
        super().__init__(root, dies_with_us=dies_with_us)

    @property
    def version(self) -> str:
        """Version of the server."""
        return run_tool(["redis-server", "--version"]).partition("v=")[2].split()[0]

    @property
    def address(self) -> str:
        """URL for clients (plain TCP), without a login."""
        return f"redis://127.0.0.1:{self.port('client')}/0"

    @property
    def tls_address(self) -> str:
        """URL for clients that use TLS, without a login."""
        return f"rediss://127.0.0.1:{self.port('tls')}/0"

    def fetch(self) -> None:
        """Install the package."""
        need_program("redis-server", package="redis-server")

    def configure(self) -> None:
        """Write the configuration."""
        data = self.root / "data"
        data.mkdir(exist_ok=True)
        config = _CONFIG.format(client=self.port("client"), data=data)
        if self._secure:
            certificates = self.certificates
            config += _SECURE.format(
                tls=self.port("tls"),
                pair=certificates.server_pair(self._tls),
                ca=certificates.ca,
                password=PASSWORD,
                limited=LIMITED,
                limited_password=LIMITED_PASSWORD,
            )
        (self.root / "redis.conf").write_text(config)

    def command(self) -> Sequence[str]:
        """The server."""
        return [shutil.which("redis-server") or "redis-server", "redis.conf"]

    def ready(self) -> bool:
        """PING is answered; while data is loaded the answer is an error, with a password NOAUTH tells readiness."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port("client")), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

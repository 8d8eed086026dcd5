"""PgBouncer from Debian's package, in front of a PostgreSQL of the lab."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.lab.base import Broker
from tests.lab.cache import need_program, run_tool
from tests.lab.postgres import as_owner

_CONFIG = """
[databases]
* = host={host} port={port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {client}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
ignore_startup_parameters = extra_float_digits,options
logfile =
pidfile =
"""


class PgBouncer(Broker):
    """One pooler.

    Args:
        root: its directory.
        server: URL of the database that it is in front of.
        mode: ``transaction`` or ``session``.
        size: connections to the server.
    """

    def __init__(self, root: Path, *, server: str, mode: str, size: int = 20) -> None:
        self._server = urlsplit(server)
        self._mode = mode
        self._size = size
        super().__init__(root)

    @property
    def version(self) -> str:
        """Version of the pooler."""
        return run_tool(["pgbouncer", "--version"]).split()[1]

    @property
    def address(self) -> str:
        """URL of the same database by way of the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self.port('client')}{self._server.path}"

    def fetch(self) -> None:
        """Install the package."""
        need_program("pgbouncer", package="pgbouncer")

    def configure(self) -> None:
        """Write the configuration."""
        server = {"host": self._server.hostname, "port": self._server.port}
        config = _CONFIG.format(**server, client=self.port("client"), mode=self._mode, size=self._size)
        (self.root / "pgbouncer.ini").write_text(config)

    def command(self) -> Sequence[str]:
        """The pooler, in the foreground."""
        return [shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", "pgbouncer.ini"]

    def identity(self) -> Sequence[str]:
        """It refuses to run as root."""
        return as_owner()

    def ready(self) -> bool:
        """Connections are served."""
        import psycopg

        try:
            psycopg.connect(self.address, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

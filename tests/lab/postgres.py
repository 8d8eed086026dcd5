"""PostgreSQL from Debian's package, on a private data directory. A secure one wants TLS and a password."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.lab.base import Broker
from tests.lab.cache import install_package, run_tool
from tests.lab.errors import BrokerUnavailableError
from tests.lab.logins import PASSWORD

_OWNER = "postgres"
_ALONE = ("-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=32MB", "-k", "")


class Postgres(Broker):
    """One PostgreSQL server; connect as user postgres.

    Args:
        root: its directory.
        secure: connections need TLS and `PASSWORD`.
        tls: which server certificate (`Certificates.server_pair`).
        dies_with_us: see `Broker`.
    """

    ready_s = 30.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": clients are cut off, nothing is lost

    def __init__(self, root: Path, *, secure: bool = False, tls: str = "server", dies_with_us: bool = True) -> None:
        self._secure = secure
        self._tls = tls
        super().__init__(root, dies_with_us=dies_with_us)

    @property
    def version(self) -> str:
        """Version of the server."""
        return run_tool([str(_programs() / "postgres"), "--version"]).split()[2]

    @property
    def address(self) -> str:
        """Connection URL, without a password."""
        return f"postgresql://{_OWNER}@127.0.0.1:{self.port('client')}/postgres"

    def fetch(self) -> None:
        """Install the package."""
        if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
            install_package("postgresql")
        _programs()

    def configure(self) -> None:
        """Initialise the data directory once; say who may connect."""
        data = self.root / "data"
        if not (data / "PG_VERSION").exists():
            self._init(data)
        rule = "hostssl all all 127.0.0.1/32 scram-sha-256" if self._secure else "host all all 127.0.0.1/32 trust"
        (data / "pg_hba.conf").write_text(f"{rule}\n")
        # A server killed on a machine that reaps late is a zombie for a while, and a zombie counts as alive for its
        # lock file. That it does not run is known here; shared memory still guards the directory.
        (data / "postmaster.pid").unlink(missing_ok=True)

    def command(self) -> Sequence[str]:
        """The server."""
        return [str(_programs() / "postgres"), "-D", "data", "-p", str(self.port("client")), *self._options()]

    def identity(self) -> Sequence[str]:
        """The server refuses to run as root."""
        return as_owner()

    def ready(self) -> bool:
        """Connections are served."""
        check = [str(_programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port("client"))]
        return subprocess.call(check) == 0

    def _options(self) -> list[str]:
        if not self._secure:
            return [*_ALONE]
        pair = self.certificates.server_pair(self._tls)
        settings = {
            "ssl": "on",
            "ssl_cert_file": pair.cert,
            "ssl_key_file": pair.key,
            "ssl_ca_file": self.certificates.ca,
        }
        return [*_ALONE, *(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))]

    def _init(self, data: Path) -> None:
        data.mkdir(mode=0o700, exist_ok=True)
        password = self.root / "certs" / "password"
        password.parent.mkdir(exist_ok=True)
        password.write_text(PASSWORD)
        if os.getuid() == 0:
            shutil.chown(data, _OWNER, _OWNER)
        options = f"-U {_OWNER} -A scram-sha-256 -E UTF8 --locale=C.UTF-8 --no-sync".split()
        initdb = [str(_programs() / "initdb"), "-D", "data", *options, "--pwfile", str(password)]
        self.run_to_end([*as_owner(), *initdb])


def as_owner() -> list[str]:
    """For root: become the server's own user.

    The one capability lets that user reach a directory below one that only root may enter, such as a test's
    temporary directory.
    """
    if os.getuid() != 0:
        return []
    identity = ["--reuid", _OWNER, "--regid", _OWNER, "--init-groups"]
    return ["setpriv", *identity, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    if program := shutil.which("postgres"):
        return Path(program).parent
    message = "postgresql is not installed"
    raise BrokerUnavailableError(message)

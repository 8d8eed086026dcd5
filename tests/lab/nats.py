"""NATS with JetStream (file store): the newest server, built from Go modules, or Debian's 2.9.

A secure server has TLS and one way to log in, because a server knows only one: ``users`` (password or nkey),
``token`` or ``creds`` (decentralised JWT).
"""

import json
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tests.lab.base import Broker
from tests.lab.cache import building, cache_dir, need_program, run_tool, unpack_package
from tests.lab.logins import FORBIDDEN, LIMITED, LIMITED_PASSWORD, PASSWORD, TOKEN, USER

NEWEST = "2.15.2"
DEBIAN = "2.9"

Login = Literal["users", "token", "creds"]

_CONFIG = """
server_name: hexa-{client}
listen: "127.0.0.1:{client}"
http: "127.0.0.1:{http}"
"""
_JETSTREAM = """
jetstream {{
  store_dir: "{store}"
  max_memory_store: 256MB
  max_file_store: 8GB
}}
"""
_TLS = """
tls {{
  cert_file: "{pair.cert}"
  key_file: "{pair.key}"
  ca_file: "{ca}"
  verify: {verify}
}}
"""
_USERS = """
authorization {{
  users: [
    {{user: {user}, password: "{password}"}}
    {{nkey: {nkey}}}
    {{user: {limited}, password: "{limited_password}", permissions: {{
      publish: {{deny: [
        "{forbidden}", "{forbidden}.>", "$JS.API.STREAM.*.{forbidden}", "$JS.API.CONSUMER.*.{forbidden}.>",
        "$JS.ACK.{forbidden}-acks.>", "hexa.~~leases.{forbidden}-acks.>"
      ]}}
      subscribe: {{deny: ["{forbidden}", "{forbidden}.>"]}}
    }}}}
  ]
}}
"""


class Nats(Broker):
    """One NATS server.

    Args:
        root: its directory.
        version: `NEWEST` (or another release) or `DEBIAN`.
        login: how clients log in; None: not at all.
        tls: which server certificate (`Certificates.server_pair`); None: no TLS.
        verify: clients must show a certificate.
        extra: more lines of its configuration.
        dies_with_us: see `Broker`.

    Attributes:
        jetstream: whether it serves JetStream after its next start.
    """

    port_names = ("client", "http", "proxy")
    ready_s = 30.0

    def __init__(
        self,
        root: Path,
        *,
        version: str = NEWEST,
        login: Login | None = None,
        tls: str | None = None,
        verify: bool = False,
        extra: str = "",
        dies_with_us: bool = True,
    ) -> None:
        self._wanted = version
        self._login = login
        self._tls = tls
        self._verify = verify
        self._extra = extra
        self.jetstream = True
        super().__init__(root, dies_with_us=dies_with_us)

    @property
    def version(self) -> str:
        """Version of the server."""
        return run_tool([str(self._program), "--version"]).strip().rpartition("v")[2]

    @property
    def address(self) -> str:
        """URL for clients, without a login."""
        return f"{'tls' if self._tls else 'nats'}://127.0.0.1:{self.port('client')}"

    @property
    def admin_address(self) -> str:
        """URL of the monitoring pages."""
        return f"http://127.0.0.1:{self.port('http')}"

    @property
    def streams_folder(self) -> Path:
        """Where the server keeps streams of clients without an account, each in a folder of its name."""
        return self.root / "data" / "jetstream" / "$G" / "streams"

    @property
    def nkey_seed(self) -> Path:
        """Seed file of a user who may do everything (login ``users``)."""
        return self.root / "certs" / "user.nk"

    @property
    def credentials(self) -> Path:
        """Credentials file of a user who may do everything (login ``creds``)."""
        return self.root / "certs" / "user.creds"

    @property
    def stranger_credentials(self) -> Path:
        """Credentials file whose account the server does not know (login ``creds``)."""
        return self.root / "certs" / "stranger.creds"

    def fetch(self) -> None:
        """Build the server, or unpack Debian's."""
        with building(f"nats-{self._wanted}") as target:
            if target is None:
                return
            if self._wanted == DEBIAN:
                unpack_package("nats-server", target)
                return
            need_program("go", package="golang-go")
            module = f"github.com/nats-io/nats-server/v2@v{self._wanted}"
            run_tool(["go", "install", module], env={"GOBIN": str(target), "GOFLAGS": "-buildvcs=false"})

    def configure(self) -> None:
        """Write the configuration, and with a login the keys."""
        (self.root / "certs").mkdir(exist_ok=True)
        config = _CONFIG.format(client=self.port("client"), http=self.port("http")) + self._extra
        if self.jetstream:
            config += _JETSTREAM.format(store=self.root / "data")
        if self._tls is not None:
            certificates = self.certificates
            pair = certificates.server_pair(self._tls)
            config += _TLS.format(pair=pair, ca=certificates.ca, verify=str(self._verify).lower())
        (self.root / "nats.conf").write_text(config + self._login_config())

    def command(self) -> Sequence[str]:
        """The server."""
        return [str(self._program), "-c", "nats.conf"]

    def ready(self) -> bool:
        """The health page is good only once JetStream has recovered every stream and consumer."""
        with suppress(OSError), urllib.request.urlopen(f"{self.admin_address}/healthz", timeout=5) as answer:
            return bool(json.load(answer)["status"] == "ok")
        return False

    @property
    def _program(self) -> Path:
        base = cache_dir() / f"nats-{self._wanted}"
        return base / ("usr/sbin/nats-server" if self._wanted == DEBIAN else "nats-server")

    def _login_config(self) -> str:
        if self._login == "token":
            return f'authorization {{ token: "{TOKEN}" }}\n'
        if self._login == "creds":
            return self._creds_config()
        if self._login is None:
            return ""
        from tests.lab.nats_keys import KeyPair

        if not self.nkey_seed.exists():
            _write_secret(self.nkey_seed, KeyPair.new("user").seed)
        return _USERS.format(
            user=USER,
            password=PASSWORD,
            nkey=KeyPair.load(self.nkey_seed.read_text()).public,
            limited=LIMITED,
            limited_password=LIMITED_PASSWORD,
            forbidden=FORBIDDEN,
        )

    def _creds_config(self) -> str:
        from tests.lab.nats_keys import Operator

        config = self.root / "certs" / "operator.conf"
        if not config.exists():
            ours, other = Operator(), Operator()
            _write_secret(self.credentials, ours.user_credentials(USER))
            _write_secret(self.stranger_credentials, other.user_credentials(USER))
            config.write_text(ours.server_config())
        return config.read_text()


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)

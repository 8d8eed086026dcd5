"""A Redis master, a replica of it and the Sentinels that watch both, as processes of this machine."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis as redis_client

from tests.lab.certs import Certificates
from tests.lab.logins import PASSWORD
from tests.lab.ports import Port, reserve_port
from tests.lab.processes import Process, spawn

MASTER = "claims"
WATCH_PASSWORD = "watch-" + PASSWORD
_SENTINELS = 3
_DOWN_MS = 1_000
_HURRY = ("PUBLISH-PERIOD", "INFO-PERIOD", "PING-PERIOD", "ASK-PERIOD")
_PLAIN = """
port {port}
"""
_TLS = """
port 0
tls-port {port}
tls-cert-file "{pair.cert}"
tls-key-file "{pair.key}"
tls-ca-cert-file "{ca}"
tls-auth-clients no
tls-replication yes
"""
_SERVER = """
bind 127.0.0.1
dir "{folder}"
save ""
requirepass {password}
masterauth {password}
repl-diskless-sync-delay 0
"""
_SENTINEL = """
bind 127.0.0.1
dir "{folder}"
requirepass {watch_password}
sentinel sentinel-pass {watch_password}
sentinel monitor {master} 127.0.0.1 {watched} 2
sentinel auth-pass {master} {password}
sentinel down-after-milliseconds {master} {down_ms}
sentinel failover-timeout {master} 3000
"""


class Watched:
    """Five processes: two servers, three Sentinels. All want a password, the Sentinels another one.

    Args:
        root: a directory for their files.
        certificates: all talk TLS; None: nobody does.
    """

    def __init__(self, root: Path, certificates: Certificates | None = None) -> None:
        self._root = root
        self._certificates = certificates
        self._ports: list[Port] = []
        self._processes: dict[int, Process] = {}

    def start(self) -> None:
        """Start all, and return when the Sentinels know each other and the replica."""
        try:
            self.servers = [self._start(_SERVER), self._start(_SERVER)]
            for server in self.servers:
                wait_until(lambda server=server: self.admin(server).ping())  # type: ignore[misc]  # mypy and defaults
            self.admin(self.servers[1]).replicaof("127.0.0.1", str(self.servers[0]))
            wait_until(lambda: self.admin(self.servers[1]).info("replication")["master_link_status"] == "up")
            self.sentinels = [self._start(_SENTINEL, "--sentinel") for _ in range(_SENTINELS)]
            for sentinel in self.sentinels:
                self._hurry(sentinel)
            wait_until(lambda: all(self._is_ready(one) for one in self.sentinels))
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the Sentinels are."""
        return tuple(f"127.0.0.1:{port}" for port in self.sentinels)

    @property
    def master(self) -> int:
        """The port of the server that the Sentinels name."""
        named: Any = self._watcher(self.sentinels[-1]).sentinel_get_master_addr_by_name(MASTER)
        return int(named[1])

    def wait_for_another(self, than: int) -> int:
        """Return the master's port once it is another one, and writes."""
        wait_until(lambda: self.master != than)
        wait_until(lambda: self.admin(self.master).info("replication")["role"] == "master")
        return self.master

    def kill(self, port: int) -> None:
        """SIGKILL one process."""
        self._processes[port].kill_tree(10)

    def freeze(self, port: int) -> None:
        """SIGSTOP one process: its connections stay open, nothing answers."""
        self._processes[port].signal_tree(signal.SIGSTOP)

    def thaw(self, port: int) -> None:
        """Let a frozen process go on."""
        self._processes[port].signal_tree(signal.SIGCONT)

    def admin(self, port: int) -> "redis_client.Redis":
        """A client of one server."""
        return self._client(port, PASSWORD)

    def close(self) -> None:
        """End all."""
        for process in self._processes.values():
            process.kill_tree(10)
        for port in self._ports:
            port.release()

    def _start(self, config: str, *options: str) -> int:
        port = reserve_port()
        self._ports.append(port)
        folder = self._root / str(port.number)
        folder.mkdir()
        watched = self.servers[0] if options else 0
        names = {"password": PASSWORD, "watch_password": WATCH_PASSWORD, "master": MASTER, "down_ms": _DOWN_MS}
        config = (_PLAIN if self._certificates is None else self._tls(self._certificates)) + config
        (folder / "redis.conf").write_text(config.format(port=port.number, folder=folder, watched=watched, **names))
        self._processes[port.number] = spawn(
            ["redis-server", str(folder / "redis.conf"), *options],
            log=folder / "log",
            cwd=folder,
            keep_fds=[port.lock],
            dies_with_us=True,
        )
        return port.number

    @staticmethod
    def _tls(certificates: Certificates) -> str:
        pair = certificates.server_pair("server")
        return (
            _TLS.replace("{pair.cert}", str(pair.cert))
            .replace("{pair.key}", str(pair.key))
            .replace("{ca}", str(certificates.ca))
        )

    def _watcher(self, port: int) -> "redis_client.Redis":
        return self._client(port, WATCH_PASSWORD)

    def _client(self, port: int, password: str) -> "redis_client.Redis":
        tls: dict[str, Any] = {}
        if self._certificates is not None:
            tls = {"ssl": True, "ssl_ca_certs": str(self._certificates.ca)}
        return redis_client.Redis("127.0.0.1", port, password=password, socket_timeout=2, **tls)

    def _hurry(self, port: int) -> None:
        """Sentinels look around each second or each ten; here they need not take their time."""
        wait_until(lambda: self._watcher(port).ping())
        for name in _HURRY:
            watcher: Any = self._watcher(port)
            watcher.execute_command("SENTINEL", "DEBUG", name, "200")

    def _is_ready(self, port: int) -> bool:
        state: Any = self._watcher(port).sentinel_master(MASTER)
        return bool(state["num-other-sentinels"] == _SENTINELS - 1 and state["num-slaves"] == 1)


def wait_until(look: Callable[[], Any]) -> None:
    """Return once `look` says yes; errors of Redis count as no.

    Raises:
        AssertionError: after half a minute.
    """
    deadline = time.monotonic() + 30
    while True:
        try:
            if look():
                return
        except redis_client.RedisError:
            pass
        assert time.monotonic() < deadline, "not within half a minute"
        time.sleep(0.05)

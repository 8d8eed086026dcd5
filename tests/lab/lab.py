"""Which brokers there are, and those of one run."""

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.lab import kafka, nats
from tests.lab.base import Broker
from tests.lab.errors import BrokerUnavailableError
from tests.lab.external import given_broker
from tests.lab.kafka import Kafka
from tests.lab.nats import Nats
from tests.lab.postgres import Postgres
from tests.lab.processes import Process, load_process, this_process
from tests.lab.pulsar import Pulsar
from tests.lab.redis import Redis

PLAIN: dict[str, Callable[..., Broker]] = {
    "kafka": Kafka,
    "kafka39": partial(Kafka, version=kafka.OLDEST),
    "nats": Nats,
    "nats29": partial(Nats, version=nats.DEBIAN),
    "pulsar": Pulsar,
    "redis": Redis,
    "postgres": Postgres,
}
"""Brokers without security, as the command line knows them."""

SECURE: dict[str, Callable[..., Broker]] = {
    "kafka-secure": partial(Kafka, secure=True),
    "kafka39-secure": partial(Kafka, version=kafka.OLDEST, secure=True),
    "nats-users": partial(Nats, login="users", tls="server"),
    "nats-token": partial(Nats, login="token", tls="server"),
    "nats-creds": partial(Nats, login="creds", tls="server"),
    "nats-mtls": partial(Nats, tls="server", verify=True),
    "nats-expired": partial(Nats, tls="expired"),
    "nats-wrong-host": partial(Nats, tls="wrong-host"),
    "nats29-users": partial(Nats, version=nats.DEBIAN, login="users", tls="server"),
    "pulsar-secure": partial(Pulsar, secure=True),
    "redis-secure": partial(Redis, secure=True),
    "redis-expired": partial(Redis, secure=True, tls="expired"),
    "redis-wrong-host": partial(Redis, secure=True, tls="wrong-host"),
    "postgres-secure": partial(Postgres, secure=True),
    "postgres-expired": partial(Postgres, secure=True, tls="expired"),
    "postgres-wrong-host": partial(Postgres, secure=True, tls="wrong-host"),
}
"""Brokers with TLS and logins."""

_PREFIX = "hexa-brokers-"


def make_broker(name: str, root: Path, *, dies_with_us: bool = True) -> Broker:
    """The broker of a name in a directory of its own below `root`; it is not started."""
    return {**PLAIN, **SECURE}[name](root / name, dies_with_us=dies_with_us)


class Lab:
    """The brokers of one test run, each started when first asked for, in a temporary directory."""

    def __init__(self) -> None:
        self.brokers: dict[str, Broker] = {}
        self.unavailable: dict[str, str] = {}
        """Reasons why brokers cannot be had here."""
        self._root: Path | None = None

    def get(self, name: str) -> Broker:
        """The running broker of a name: the given one, or ours.

        Raises:
            BrokerUnavailableError: it cannot be had on this machine.
        """
        if name in self.unavailable:
            raise BrokerUnavailableError(self.unavailable[name])
        if name not in self.brokers:
            broker = given_broker(name, os.environ) or make_broker(name, self._directory())
            try:
                broker.start()
            except BrokerUnavailableError as error:
                self.unavailable[name] = str(error)
                raise
            self.brokers[name] = broker
        return self.brokers[name]

    def heal(self) -> None:
        """Let all our brokers run again, whatever a test did to them."""
        for broker in self.brokers.values():
            if broker.ours:
                broker.thaw()
                broker.start()

    def drop(self, name: str) -> None:
        """End one broker and forget its data."""
        if name in self.brokers:
            self.brokers.pop(name).close()

    def close(self) -> None:
        """End all brokers and remove their data."""
        for name in list(self.brokers):
            self.drop(name)
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    def _directory(self) -> Path:
        if self._root is None:
            remove_orphans()
            self._root = Path(tempfile.mkdtemp(prefix=_PREFIX))
            this_process().save(self._root / "owner.pid")
        return self._root


def remove_orphans() -> None:
    """Remove what runs that died left behind; the kernel killed their brokers."""
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = root / "owner.pid"
        if owner.exists() and load_process(owner) is None:
            for pid_file in root.glob("*/broker.pid"):
                _end(load_process(pid_file))
            shutil.rmtree(root, ignore_errors=True)


def _end(process: Process | None) -> None:
    if process is not None:
        process.kill_tree(10)

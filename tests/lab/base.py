"""A broker of the lab, whichever it is: its life, its data directory, its addresses.

Subclasses say how to get the programs, how to configure and start them, and when they are ready. Everything else
(processes, ports, faults) is here. What a broker needs to come back at the same address with the same data is in
its directory, so another process can take it over: ``up`` and ``down`` of the command line are two runs.
"""

import functools
import json
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.lab.certs import Certificates
from tests.lab.errors import BrokerError
from tests.lab.ports import Port, reserve_port, wait_free
from tests.lab.processes import Process, load_process, spawn
from tests.lab.proxy import Proxy

_STOP_S = 20.0
_KILL_S = 10.0
_KEPT = {"ports.json", "certs"}


class Broker(ABC):
    """One broker on one data directory.

    Args:
        root: its directory; made if missing. What lies there from an earlier run is taken over.
        dies_with_us: the kernel kills the broker as soon as this process is gone.
    """

    ours: ClassVar[bool] = True
    """Whether the lab started it, so that it may be broken and wiped."""

    port_names: tuple[str, ...] = ("client", "proxy")
    ready_s: ClassVar[float] = 60.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, root: Path, *, dies_with_us: bool = True) -> None:
        self.root = root.absolute()
        self.dies_with_us = dies_with_us
        self._ports: dict[str, Port] = {}
        self._process = load_process(self._pid_file)

    # What a subclass says.

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the broker's program."""

    @property
    @abstractmethod
    def address(self) -> str:
        """What a client is given to connect, in the form the client's configuration wants."""

    @property
    def admin_address(self) -> str:
        """Where it is administered or monitored; the same as `address` where there is no separate one."""
        return self.address

    @property
    def proxied_address(self) -> str:
        """The address under which clients reach it through `open_proxy`; dead while no proxy is open."""
        return self.address.replace(str(self.port("client")), str(self.port("proxy")))

    @abstractmethod
    def fetch(self) -> None:
        """Get programs and jars into the cache, if they are not there yet."""

    @abstractmethod
    def configure(self) -> None:
        """Write the configuration, and on a new directory format the data."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The program to start, with its arguments."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it serves clients fully; an open port is not enough."""

    def identity(self) -> Sequence[str]:
        """A command prefix that changes the user of its process."""
        return ()

    def environment(self) -> dict[str, str]:
        """Variables for its process, besides ours."""
        return {}

    # Its life.

    @property
    def running(self) -> bool:
        """Whether its process exists (it may be frozen)."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        if self._process is None or not self._process.alive:
            message = f"{self} does not run"
            raise BrokerError(message)
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """Whether it does not run although nobody stopped it."""
        return self._pid_file.exists() and not self.running

    @property
    def log(self) -> Path:
        """Everything it ever said."""
        return self.root / "broker.log"

    def start(self) -> None:
        """Start it on its data, and return when it serves.

        Raises:
            BrokerUnavailableError: this machine cannot have it.
            BrokerError: it died or is not ready in time.
        """
        if self.running:
            return
        self.fetch()
        self.root.mkdir(parents=True, exist_ok=True)
        for name in self.port_names:
            if name != "proxy":
                wait_free(self.port(name))
        self.configure()
        self._process = self._launch()
        self._wait_ready(self._process)

    def stop(self) -> None:
        """Stop it in the orderly way; it is killed if that takes too long. The data stays."""
        if self._process is not None and self.running:
            self.thaw()
            os.kill(self._process.pid, self.stop_signal)
            if not self._process.wait_gone(_STOP_S):
                self.kill()
                return
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL it with all its children: what it did not write yet is gone."""
        if self._process is not None and self.running and not self._process.kill_tree(_KILL_S):
            message = f"{self} survived SIGKILL for {_KILL_S} s"
            raise BrokerError(message)

    def freeze(self) -> None:
        """SIGSTOP it with all its children: connections stay open, nothing answers."""
        if self._process is not None:
            self._process.signal_tree(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        if self._process is not None:
            self._process.signal_tree(signal.SIGCONT)

    def restart(self) -> None:
        """Stop and start on the same data, at the same address."""
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Kill it and remove its data; address and certificates stay for a new start."""
        self.kill()
        for path in self.root.glob("*"):
            if path.name not in _KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Kill it, remove its directory and give the ports back."""
        self.kill()
        for port in self._ports.values():
            port.release()
        self._ports.clear()
        shutil.rmtree(self.root, ignore_errors=True)

    def open_proxy(self) -> Proxy:
        """A started proxy in front of it, at `proxied_address`; the caller closes it."""
        return Proxy(("127.0.0.1", self.port(self._proxied_port)), port=self.port("proxy")).start()

    def port(self, name: str) -> int:
        """Number of one of its ports, by the name that the subclass uses."""
        if not self._ports:
            self._reserve_ports()
        return self._ports[name].number

    @functools.cached_property
    def certificates(self) -> Certificates:
        """The certificates of its TLS listeners and clients."""
        return Certificates(self.root / "certs")

    def run_to_end(self, command: Sequence[str]) -> None:
        """Run one of the broker's own tools in its directory, its output into the log."""
        with self.log.open("ab") as output:
            code = subprocess.call(command, cwd=self.root, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        if code:
            message = f"{self}: {Path(command[0]).name} failed: {self._last_words()}"
            raise BrokerError(message)

    def __str__(self) -> str:
        """Its name, for messages."""
        return self.root.name

    # What is private.

    _proxied_port: ClassVar[str] = "client"

    @property
    def _pid_file(self) -> Path:
        return self.root / "broker.pid"

    @property
    def _ports_file(self) -> Path:
        return self.root / "ports.json"

    def _reserve_ports(self) -> None:
        try:
            numbers = json.loads(self._ports_file.read_text())
        except FileNotFoundError:
            numbers = {}
        if self.running:
            self._ports = {name: Port(number, os.open(os.devnull, os.O_RDONLY)) for name, number in numbers.items()}
            return
        self._ports = {name: reserve_port(numbers.get(name)) for name in self.port_names}
        self.root.mkdir(parents=True, exist_ok=True)
        self._ports_file.write_text(json.dumps({name: port.number for name, port in self._ports.items()}))

    def _launch(self) -> Process:
        process = spawn(
            self.command(),
            log=self.log,
            cwd=self.root,
            env=self.environment(),
            keep_fds=[port.lock for port in self._ports.values()],
            identity=self.identity(),
            dies_with_us=self.dies_with_us,
        )
        process.save(self._pid_file)
        return process

    def _wait_ready(self, process: Process) -> None:
        deadline = time.monotonic() + self.ready_s
        while not self.ready():
            if process.wait_gone(0.03):
                message = f"{self} died while starting: {self._last_words()}"
                raise BrokerError(message)
            if time.monotonic() > deadline:
                self.kill()
                message = f"{self} is not ready after {self.ready_s} s: {self._last_words()}"
                raise BrokerError(message)

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-1500:].strip()

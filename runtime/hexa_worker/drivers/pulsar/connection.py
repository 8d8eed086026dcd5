"""One process's client, and a thread that watches it: it is made anew when it does not recover by itself.

The client library reconnects, but waits up to a minute between two tries, and does not notice for as long that a
connection has gone silent. So a small request is made every few seconds; without an answer a new client is tried as
soon as a broker can be reached, and takes the old one's place. Everybody who sees a new `generation` begins anew.
"""

import logging
import os
import threading
from contextlib import suppress
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any

import pulsar

from hexa_worker.config.pulsar import Pulsar
from hexa_worker.drivers.pulsar.client_internals import ask_partitions
from hexa_worker.drivers.pulsar.errors import name_of, translate
from hexa_worker.drivers.pulsar.names import TopicNames
from hexa_worker.drivers.pulsar.security import Security
from hexa_worker.errors import DriverError, DriverUnavailable

PING_EVERY_S = 2.0
PING_WAIT_S = 3.0
HEARD_S = 8.0
"""A broker that confirmed something within this is there: one that slows its producers down lets all else wait, too."""
CLOSE_S = 3.0
_ALIVE = frozenset({"Ok", "AuthorizationError", "TopicNotFound", "InvalidTopicName", "NotAllowedError"})
"""Answers that only a living broker gives."""
log = logging.getLogger("hexa_worker.drivers.pulsar")


class PulsarConnection:
    """The client of one process.

    Args:
        options: the broker's table.
        folder: what files are relative to.
    """

    def __init__(self, options: Pulsar, folder: Path) -> None:
        self.topics = TopicNames(options.topic_format)
        self.security = Security(options, folder)
        self.generation = 0
        self.trouble: DriverUnavailable | None = None
        """Why the broker counts as unavailable; None: it answers."""
        self._options = options
        self._folder = folder
        self._heard_at = -PING_EVERY_S
        self._client: Any = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._watch: threading.Thread | None = None

    def heard(self) -> None:
        """A broker has confirmed something: it lives, whatever else it lets wait. From any thread."""
        self._heard_at = monotonic()

    @property
    def client(self) -> Any:
        """The client.

        Raises:
            DriverUnavailable: not open.
        """
        client = self._client
        if client is None:
            raise DriverUnavailable("pulsar: the driver is not open")
        return client

    def require(self) -> None:
        """Raise DriverUnavailable while the broker does not answer."""
        if self._client is None:
            raise DriverUnavailable("pulsar: the driver is not open")
        if self.trouble is not None:
            raise self.trouble

    def open(self) -> None:
        """Connect; blocks. Idempotent.

        Raises:
            DriverUnavailable: no broker answers.
            DriverRejected, ConfigError: it will not work.
        """
        with self._lock:
            if self._client is not None:
                return
            self.security.probe(self._options.timeout_s)
            client = self._make()
            answer = self._ping(client, self._options.timeout_s)
            if answer not in _ALIVE:
                _end_client(client)
                raise translate_name(answer, f"connect to {self._options.url}")
            self._client = client
            self.generation += 1
            self.trouble = None
            self._end = threading.Event()
            self._watch = threading.Thread(target=self._keep, args=(self._end,), name="hexa-pulsar-watch", daemon=True)
            self._watch.start()

    def close(self) -> None:
        """Close the client; blocks, but not for long. Idempotent."""
        with self._lock:
            client, self._client = self._client, None
            self._end.set()
        if client is not None:
            _end_client(client)

    def abort(self) -> None:
        """Vanish as a killed process does: for tests."""
        client, self._client = self._client, None
        self._end.set()
        if client is not None:
            client.shutdown()

    def _make(self) -> Any:
        options = self._options
        extra = {} if options.listener_name is None else {"listener_name": options.listener_name}
        try:
            return pulsar.Client(
                options.url,
                operation_timeout_seconds=max(ceil(options.timeout_s), 1),
                connection_timeout_ms=max(round(min(options.timeout_s, 5.0) * 1000), 1),
                logger=self._logger(),
                **self.security.client_arguments(),
                **extra,
            )
        except pulsar.PulsarException as error:
            raise translate(error, "make a client") from error

    def _logger(self) -> Any:
        """Where the library's own lines go. Never to us: it logs under its locks, and Python's lock is another one."""
        log_file = self._options.client_log
        path = os.devnull if log_file is None else str(self._folder / log_file)
        return pulsar.FileLogger(pulsar.LoggerLevel.Warn, path)

    def _ping(self, client: Any, wait_s: float) -> str:
        """What the broker answers to a small question; ``Timeout`` when nothing comes in time."""
        answered = threading.Event()
        answers: list[str] = []

        def answer(result: Any, _partitions: Any) -> None:
            answers.append(name_of(result))
            answered.set()

        try:
            ask_partitions(client, self.topics.topic("hexa-worker-ping"), answer)
        except pulsar.PulsarException as error:
            return name_of(error)
        answered.wait(wait_s)
        return answers[0] if answers else "Timeout"

    # -- the watching thread

    def _keep(self, end: threading.Event) -> None:
        while not end.wait(PING_EVERY_S):
            client = self._client
            if client is None:
                return
            answer = self._ping(client, PING_WAIT_S)
            if answer not in _ALIVE and monotonic() - self._heard_at > HEARD_S and not end.is_set():
                self._recover(end, answer)

    def _recover(self, end: threading.Event, answer: str) -> None:
        """Wait until the broker answers again, the old client or a new one."""
        self.trouble = DriverUnavailable(str(translate_name(answer, f"{self._options.url} does not answer")))
        while not end.is_set():
            try:
                self.security.probe(1.0)
                if self._answers_again():
                    self.trouble = None
                    return
            except DriverError as error:
                self.trouble = DriverUnavailable(str(error))
            except Exception:
                log.warning("pulsar: cannot prepare a new connection", exc_info=True)
            end.wait(0.5)

    def _answers_again(self) -> bool:
        client = self._client
        if client is None or self._ping(client, 1.0) in _ALIVE:
            return True
        try:
            fresh = self._make()
        except DriverError:
            return False
        if self._ping(fresh, PING_WAIT_S) not in _ALIVE:
            _end_client(fresh)
            return False
        with self._lock:
            if self._client is not client:  # closed meanwhile
                _end_client(fresh)
                return True
            self._client = fresh
            self.generation += 1
        log.info("pulsar: the connection to %s was made anew", self._options.url)
        _end_client(client)
        return True


def _end_client(client: Any) -> None:
    """Close a client, without waiting for long: with a frozen broker it takes its time.

    Never by its ``shutdown``, which joins the library's threads while it has Python's lock, that they may wait for.
    """

    def close() -> None:
        with suppress(pulsar.PulsarException):  # closed already
            client.close()

    closing = threading.Thread(target=close, name="hexa-pulsar-close", daemon=True)
    closing.start()
    closing.join(CLOSE_S)


def translate_name(name: str, what: str) -> DriverError:
    """As `translate`, for a result's name."""
    return translate(getattr(pulsar.Result, name, pulsar.Result.UnknownError), what)

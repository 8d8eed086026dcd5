"""What all clients of one driver share: settings, deadlines, and finding out why brokers cannot be reached."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from hexa_worker.config.kafka import Kafka
from hexa_worker.drivers.kafka.client_internals import ask_others, cut, make_no_topics
from hexa_worker.drivers.kafka.errors import driver_error
from hexa_worker.drivers.kafka.security import security_settings, tls_failure
from hexa_worker.drivers.kit.error_context import reason_of
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

T = TypeVar("T")
STOP_S = 2.0
"""How long a client may take to stop before its connections are cut."""
_PROBE_S = 3.0
_PROBE_MS = round(_PROBE_S * 1000)


async def bounded(call: Awaitable[T], seconds: float, doing: str) -> T:
    """Await a call of the client library, in a task of its own and no longer than `seconds`.

    aiokafka may wait for ever, and may end in a CancelledError that nobody asked for.

    Raises:
        DriverUnavailable: it took too long, or failed in a way that time may mend.
        DriverRejected: it never will.

    Cancellation: the call is cancelled too.
    """
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        _abandon(task)
        raise
    if not done:
        _abandon(task)
        raise DriverUnavailable(f"kafka: {doing}: no answer in {seconds:g} s")
    if task.cancelled():
        raise DriverUnavailable(f"kafka: {doing}: the client gave up")
    error = task.exception()
    if error is not None:
        raise driver_error(error, doing) from error
    return task.result()


def _abandon(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


async def stop_client(stop: Callable[[], Awaitable[object]], client: Any) -> None:
    """Stop a consumer or producer whatever it does, then cut its connections. Never raises for a dead broker."""
    try:
        await bounded(stop(), STOP_S, "stopping a client")
    except DriverError as error:
        logging.getLogger("hexa_worker.kafka").debug("%s", error)
        cut(client)


class KafkaConnection:
    """The settings of one driver's clients.

    Args:
        options: the broker table.
        folder: what files in it are relative to.

    Raises:
        ConfigError: a file of the security options cannot be used.
    """

    def __init__(self, options: Kafka, folder: Path) -> None:
        self.options = options
        self._security = security_settings(options, folder)

    @property
    def timeout_s(self) -> float:
        """How long one call may take."""
        return self.options.timeout_s

    def settings(self, *, request_timeout_s: float | None = None) -> dict[str, Any]:
        """The keyword arguments that every client gets."""
        return {
            "bootstrap_servers": list(self.options.servers),
            "client_id": self.options.client_id,
            "request_timeout_ms": round((request_timeout_s or self.options.timeout_s) * 1000),
            "retry_backoff_ms": 100,
            "metadata_max_age_ms": round(self.options.metadata_max_age_s * 1000),
            **self._security,
        }

    async def start(self, start: Callable[[], Awaitable[object]], client: AIOKafkaClient) -> None:
        """Start a client that makes no topics by asking for them, and finds brokers that have moved.

        When it cannot reach any broker, find out why.

        Args:
            start: what starts it.
            client: what it talks to brokers with.

        Raises:
            DriverUnavailable, DriverRejected: with address and reason.
        """
        make_no_topics(client)
        ask_others(client, partial(self._update_from_servers, client))
        try:
            await bounded(start(), self.timeout_s, f"connecting to {', '.join(self.options.servers)}")
        except DriverRejected:
            raise
        except DriverUnavailable as error:
            raise await self.diagnose() or error from error.__cause__

    async def _update_from_servers(self, client: AIOKafkaClient, cluster: Any, topics: Any) -> bool:
        for host, port, _ in client.hosts:
            with suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(_PROBE_S):
                    connection = await create_conn(
                        host, port, client_id=self.options.client_id, request_timeout_ms=_PROBE_MS, **self._security
                    )
                    try:
                        metadata = await connection.send(
                            MetadataRequest(list(topics) if topics else None, allow_auto_topic_creation=False)
                        )
                    finally:
                        connection.close()
                if metadata.brokers:
                    cluster.update_metadata(metadata)
                    return True
        return False

    async def diagnose(self) -> DriverError | None:
        """Why the first broker cannot be reached, by trying; None if it can."""
        for server in self.options.servers:
            failure = await self._probe(server)
            if failure is None:
                return None
            if server == self.options.servers[-1] or isinstance(failure, DriverRejected):
                return failure
        return None

    async def _probe(self, server: str) -> DriverError | None:
        host, _, port = server.rpartition(":")
        try:
            connection = await asyncio.wait_for(
                create_conn(host.strip("[]"), int(port), request_timeout_ms=_PROBE_MS, **self._security),
                _PROBE_S,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return self._explained(server, error)
        connection.close()
        return None

    def _explained(self, server: str, error: Exception) -> DriverError:
        tls = tls_failure(error)
        if tls is not None:
            return DriverRejected(f"kafka: {server}: {tls}")
        failure = driver_error(error, server)
        if isinstance(failure, DriverRejected):
            return failure
        if isinstance(error, TimeoutError | asyncio.TimeoutError):
            return DriverUnavailable(f"kafka: {server} does not answer (is it a Kafka port?)")
        if isinstance(error, OSError):
            dropped = isinstance(error, ConnectionResetError) and self.options.tls is not None
            hint = " (is it a TLS port?)" if dropped else " (is it up, and is broker.servers right?)"
            return DriverUnavailable(f"kafka: {server} cannot be reached: {reason_of(error)}{hint}")
        return DriverUnavailable(f"kafka: {server} does not speak Kafka{self._expected()}; is it the right port?")

    def _expected(self) -> str:
        return " over TLS" if self.options.tls is not None else " in the clear (TLS needs [broker.tls])"

"""redis-py's clients, as ``[dedup]`` asks for them: of one server, of a cluster, of a master that Sentinels name.

No client tries anything twice by itself: how long a call may take is known. Every script may be run again, and is where
a connection turns out to be closed.
"""

import logging
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError  # noqa: A004 - redis-py's names

from hexa_worker.config.dedup import Dedup, host_and_port
from hexa_worker.errors import ConfigError
from hexa_worker.tls import UnusableFile, client_context

CLUSTER_TRIES = 3
_IN_URL = ("host", "port", "path", "connection_class")
"""What a URL says that does not count where Sentinels say it."""
log = logging.getLogger("hexa_worker.dedup")


class Client(Protocol):
    """What is needed of redis-py's clients."""

    def evalsha(self, sha: Any, numkeys: int, *keys_and_args: Any) -> Awaitable[Any]:
        """Run a script that the server knows."""
        ...

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Awaitable[Any]: ...

    def ping(self) -> Awaitable[Any]: ...

    def aclose(self) -> Awaitable[None]: ...


def make_client(options: Dedup, folder: Path) -> Client:
    """The client that `options` ask for; connects when it is used. Files are relative to `folder`.

    Raises:
        ConfigError: the URL cannot be read, or a file cannot be used.
    """
    settings: dict[str, Any] = {
        "socket_timeout": options.timeout_s,
        "socket_connect_timeout": options.timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    if options.password is not None:
        settings["password"] = options.password.reveal()
    url = "" if options.url is None else options.url.reveal()
    if url.startswith("rediss://"):
        settings |= _tls(options, folder)
    try:
        if options.sentinels:
            return cast("Client", _watched(options, (parse_url(url) if url else {}) | settings))
        if options.cluster:
            settings["retry"] = Retry(NoBackoff(), CLUSTER_TRIES)
            return cast("Client", RedisCluster.from_url(url, **settings))
        pool = BlockingConnectionPool.from_url(
            url, max_connections=options.connections, timeout=options.timeout_s, **settings
        )
    except ValueError as error:
        raise ConfigError("is no URL of a Redis server", where="dedup.url") from error
    return cast("Client", Redis(connection_pool=pool))


async def send(client: Redis, command: Sequence[bytes]) -> Any:
    """Send a command of very many arguments and return the answer.

    redis-py copies what it has of a command for each argument of it; here each costs a fifth of that. A connection that
    an error or a cancellation leaves out of step is closed by redis-py's own send and read.
    """
    packed = [b"*%d\r\n" % len(command)]
    packed += [b"$%d\r\n%b\r\n" % (len(part), part) for part in command]
    pool = client.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's
    try:
        await connection.send_packed_command([b"".join(packed)])
        return await connection.read_response()
    finally:
        await pool.release(connection)


class _BlockingPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master of the day; who wants one waits until one is free."""


class _Watched(Redis):
    """A client of the master that Sentinels name; each new connection asks them."""

    sentinels: Sentinel

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 - redis-py's signature
        await super().aclose(close_connection_pool)
        await self.sentinels.aclose()


class _Sentinels(Sentinel):
    """Sentinels that say why; redis-py's own text holds all settings of all connections, and no cause."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """The master's address, from the first Sentinel that knows it; that one is asked first from then on."""
        failures: list[Exception] = []
        for place, sentinel in enumerate(self.sentinels):
            try:
                masters = cast("dict[str, Any]", await sentinel.sentinel_masters())
            except (ConnectionError, TimeoutError) as error:
                failures.append(error)
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                self.sentinels.insert(0, self.sentinels.pop(place))
                return state["ip"], state["port"]
        if len(failures) == len(self.sentinels):
            raise failures[-1]
        raise MasterNotFoundError(f"no Sentinel names a master called {service_name!r} now")


def _watched(options: Dedup, settings: dict[str, Any]) -> _Watched:
    secure = settings.get("connection_class") is SSLConnection
    login = {key: value for key, value in settings.items() if key not in _IN_URL} | {"ssl": secure}
    # A dead Sentinel costs its share of the time that one call has, so that the others are asked within it, too.
    share_s = options.timeout_s / len(options.sentinels)
    asked = {"username", "password", "db"}
    to_sentinels = {key: value for key, value in login.items() if key not in asked}
    to_sentinels |= {"socket_timeout": share_s, "socket_connect_timeout": share_s}
    if options.sentinel_password is not None:
        to_sentinels["password"] = options.sentinel_password.reveal()
    addresses = [host_and_port(one) for one in options.sentinels]
    sentinels = _Sentinels(addresses, sentinel_kwargs=to_sentinels)  # type: ignore[no-untyped-call]  # redis-py's
    client = cast(
        "_Watched",
        sentinels.master_for(
            options.master,
            redis_class=_Watched,
            connection_pool_class=_BlockingPool,
            max_connections=options.connections,
            timeout=options.timeout_s,
            **login,
        ),
    )
    client.sentinels = sentinels
    return client


def _tls(options: Dedup, folder: Path) -> dict[str, Any]:
    tls = options.tls
    if tls is None:
        return {}
    ca, cert, key = (
        None if name is None else str(folder / name) for name in (tls.ca_file, tls.cert_file, tls.key_file)
    )
    try:  # to redis-py a file that it cannot read is a server that it cannot reach
        client_context(tls, folder)
    except UnusableFile as error:
        raise ConfigError(f"cannot be used: {error.reason}", where=f"dedup.tls.{error.key}") from error
    settings: dict[str, Any] = {"ssl_ca_certs": ca, "ssl_certfile": cert, "ssl_keyfile": key}
    if tls.insecure:
        log.warning("TLS to redis without checks: insecure = true")
        settings |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return settings

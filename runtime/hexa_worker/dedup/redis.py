"""Claims in Redis, shared by processes of many machines.

Lives on asyncio; `RedisClaims` puts it on a thread of its own where the runtime is not. One script serves a whole
batch (for each hash tag, in a cluster). A call that was cut short leaves its connection out of step: redis-py drops
it, and the outcome is unknown, which is why every script may be run twice.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import anyio
import msgspec
from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,  # noqa: A004 - redis-py's name
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)

from hexa_worker.config.dedup import Dedup
from hexa_worker.core.claims import SKIP, WAIT, Answer, Ask, Ending, Granted, GrantedClaim
from hexa_worker.core.scrubbing import scrub
from hexa_worker.dedup import scripts
from hexa_worker.dedup.clients import Client, make_client, send
from hexa_worker.drivers.asyncio_bridge import AsyncioThread, on_asyncio
from hexa_worker.errors import DriverError, DriverRejected, DriverUnavailable

BATCH = 500
"""Claims in one script, at most: Redis serves nobody else meanwhile."""
TAGS = 64
"""Hash tags that claims are spread over in a cluster; those of one tag are on one node."""
_REFUSALS_IN_SCRIPTS = ("ACL failure in script", "can't run this command", "NOPERM")
"""How servers say that a login may not do what a script does; redis-py has no class for it."""
T = TypeVar("T")
log = logging.getLogger("hexa_worker.dedup")


class Script:
    """A script, sent by its name; whole only to a server that does not know it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sha = sha1(text.encode(), usedforsecurity=False).hexdigest().encode()

    async def run(self, client: Client, keys: Sequence[bytes], lease_ms: int, given: list[Any]) -> list[Any]:
        """Run it once over `keys`; one answer for each."""
        blob = msgspec.msgpack.encode((lease_ms, given))
        try:
            if isinstance(client, Redis):
                answer = await send(client, (b"EVALSHA", self._sha, b"%d" % len(keys), *keys, blob))
            else:
                answer = await client.evalsha(self._sha, len(keys), *keys, blob)
        except NoScriptError:
            answer = await client.eval(self._text, len(keys), *keys, blob)
        common, *others = msgspec.msgpack.decode(answer)
        answers = [common] * len(keys)
        for place, other in zip(others[::2], others[1::2], strict=True):
            answers[place - 1] = other
        return answers


CLAIM, END, EXTEND = Script(scripts.CLAIM), Script(scripts.END), Script(scripts.EXTEND)


class AsyncioRedisClaims:
    """See the module. Only for asyncio loops.

    Args:
        options: the ``[dedup]`` table.
        folder: what files in it are relative to.

    Raises:
        ConfigError: the URL cannot be read, or a file cannot be used.
    """

    def __init__(self, options: Dedup, folder: Path) -> None:
        self._cluster = options.cluster
        self._lease_ms = round(options.lease_s * 1000)
        self._deadline_s = 2 * options.timeout_s
        self._client = make_client(options, folder)

    async def open(self) -> None:
        """See `hexa_worker.dedup.base.ClaimStore.open`."""
        await self._bounded(self._ping)

    async def preflight(self) -> list[str]:
        """What of this server's settings would make it forget claims too early, in one sentence each.

        Raises:
            DriverUnavailable: not now.
        """
        try:
            client: Any = self._client  # its type knows what claims need only
            found = await self._bounded(client.info, "memory")
        except DriverRejected:
            return []  # this login may not ask
        return _forgets(found)

    async def _ping(self) -> None:
        await self._client.ping()
        probe = GrantedClaim("probe", "probe", 0, 0)
        await self._run(END, [Ending(probe, 0, 0)], lambda one: one.held.key, _ending)  # may we write?

    async def close(self) -> None:
        """See `hexa_worker.dedup.base.ClaimStore.close`."""
        try:
            await self._bounded(self._client.aclose)
        except DriverError as error:
            log.debug("redis was not closed in order: %s", error)

    async def claim(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """See `hexa_worker.dedup.base.ClaimStore.claim`."""
        fences = await self._bounded(self._run, CLAIM, asks, lambda one: one.key, _asking)
        known: dict[int, Answer] = {0: WAIT, -1: SKIP}  # what one script grants has one fence
        return [known.get(fence) or known.setdefault(fence, Granted(fence)) for fence in fences]

    async def end(self, endings: Sequence[Ending]) -> Sequence[bool]:
        """See `hexa_worker.dedup.base.ClaimStore.end`."""
        return await self._bounded(self._run, END, endings, lambda one: one.held.key, _ending)

    async def extend(self, held: Sequence[GrantedClaim]) -> Sequence[bool]:
        """See `hexa_worker.dedup.base.ClaimStore.extend`."""
        return await self._bounded(self._run, EXTEND, held, lambda one: one.key, lambda one: (_kept(one),))

    async def _run(
        self, script: Script, items: Sequence[T], key: Callable[[T], str], given: Callable[[T], tuple[Any, ...]]
    ) -> list[Any]:
        """Run a script over any number of items; the answers in their order."""
        if not self._cluster:
            answers: list[Any] = []
            for start in range(0, len(items), BATCH):
                answers += await self._run_one(script, items[start : start + BATCH], key, given, "hexa:dedup:")
            return answers
        tagged: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            tagged.setdefault(crc32(key(item).encode()) % TAGS, []).append(place)
        found: dict[int, Any] = {}

        async def run_tag(tag: int, places: list[int]) -> None:
            for start in range(0, len(places), BATCH):
                some = places[start : start + BATCH]
                chosen = [items[place] for place in some]
                found.update(
                    zip(some, await self._run_one(script, chosen, key, given, f"hexa:dedup:{{{tag}}}:"), strict=True)
                )

        await asyncio.gather(*(run_tag(tag, places) for tag, places in tagged.items()))
        return [found[place] for place in range(len(items))]

    async def _run_one(
        self,
        script: Script,
        items: Sequence[T],
        key: Callable[[T], str],
        given: Callable[[T], tuple[Any, ...]],
        prefix: str,
    ) -> list[Any]:
        keys = [(prefix + key(item)).encode() for item in items]
        flat: list[Any] = []
        for item in items:
            flat += given(item)
        return await script.run(self._client, keys, self._lease_ms, flat)

    async def _bounded(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """A call of the client, in time and with our errors; tried again once where a connection was closed."""
        try:
            async with asyncio.timeout(self._deadline_s):
                try:
                    return await function(*args)
                except ConnectionError as error:
                    if not isinstance(self._client, Redis) or isinstance(error, AuthenticationError):
                        raise
                    # Servers and what is between close what is idle, and all that is idle here may be closed. Nobody
                    # may count as away because of that; and a script may be run twice.
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                    return await function(*args)
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            if isinstance(error, ReadOnlyError) and isinstance(self._client, Redis):
                await self._client.connection_pool.disconnect()  # it was a master once: find out who is now
            raise _told(error) from error


def _forgets(memory: dict[str, Any]) -> list[str]:
    """What ``INFO memory`` says of evictions. Every claim has a time to live, so every policy but one hits claims."""
    policy, limit = memory.get("maxmemory_policy"), memory.get("maxmemory")
    if not limit or policy in (None, "noeviction"):
        return []
    full = f"redis evicts keys when its {limit} bytes are full (maxmemory-policy {policy})"
    return [f"{full}: claims would be forgotten and events handled twice; set maxmemory-policy noeviction"]


def _asking(one: Ask) -> tuple[str]:
    return (f":{one.attempt}:{one.owner}",)


def _kept(held: GrantedClaim) -> str:
    """A claim as Redis keeps it."""
    return f"h:{held.fence}:{held.attempt}:{held.owner}"


def _ending(one: Ending) -> tuple[str, str, int]:
    held = one.held
    after = f"d:{held.fence}" if one.following is None else f"r:{held.fence}:{one.following}"
    return _kept(held), after, max(one.keep_ms, 1)


def _told(error: Exception) -> DriverError:
    """Our error for one of redis-py's, without what could be secret in it."""
    text = scrub(f"redis: {str(error) or type(error).__name__}")
    refused = isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError)
    if refused or any(words in text for words in _REFUSALS_IN_SCRIPTS):
        return DriverRejected(text)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DriverRejected(f"redis: {cause.verify_message}")
        cause = cause.__cause__ or cause.__context__
    return DriverUnavailable(text)


class RedisClaims:
    """Claims in Redis, on any event loop.

    Args:
        options: the ``[dedup]`` table.
        folder: what files in it are relative to; default: the current one.
    """

    def __init__(self, options: Dedup, folder: Path | None = None) -> None:
        self._options = options
        self._folder = folder or Path()
        self._inner: AsyncioRedisClaims | None = None
        self._asyncio: AsyncioThread | None = None

    async def open(self) -> None:
        """See `hexa_worker.dedup.base.ClaimStore.open`. Warns of what `preflight` finds."""
        for warning in await self.preflight():
            log.warning("%s", warning)

    async def _connect(self) -> None:
        if self._inner is None:
            if not on_asyncio():
                self._asyncio = AsyncioThread()
            self._inner = await self._call(self._made)
        await self._call(self._inner.open)

    async def _made(self) -> AsyncioRedisClaims:
        return AsyncioRedisClaims(self._options, self._folder)

    async def preflight(self) -> list[str]:
        """Connect, and see `AsyncioRedisClaims.preflight`.

        Raises: as `open`.
        """
        await self._connect()
        return await self._call(self._opened.preflight)

    async def close(self) -> None:
        """See `hexa_worker.dedup.base.ClaimStore.close`."""
        inner, thread = self._inner, self._asyncio
        try:
            if inner is not None:
                await self._call(inner.close)
        finally:
            self._inner = self._asyncio = None
            if thread is not None:
                with anyio.CancelScope(shield=True):
                    await thread.close()

    async def claim(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        """See `hexa_worker.dedup.base.ClaimStore.claim`."""
        return await self._call(self._opened.claim, asks)

    async def end(self, endings: Sequence[Ending]) -> Sequence[bool]:
        """See `hexa_worker.dedup.base.ClaimStore.end`."""
        return await self._call(self._opened.end, endings)

    async def extend(self, held: Sequence[GrantedClaim]) -> Sequence[bool]:
        """See `hexa_worker.dedup.base.ClaimStore.extend`."""
        return await self._call(self._opened.extend, held)

    @property
    def _opened(self) -> AsyncioRedisClaims:
        if self._inner is None:
            raise DriverUnavailable("redis: not open")
        return self._inner

    async def _call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        if self._asyncio is None:
            return await function(*args)
        return await self._asyncio.call(function, *args)

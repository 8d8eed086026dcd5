"""The claim store that worker.toml asks for."""

from importlib.util import find_spec

from hexa_worker.clock import Clock
from hexa_worker.config.model import Config
from hexa_worker.dedup.base import ClaimStore
from hexa_worker.errors import ConfigError


def make_claims(config: Config, clock: Clock) -> ClaimStore:
    """The store of `config`, to be opened.

    Raises:
        ConfigError: deduplication is off, or its client library is not installed.
    """
    options = config.file.dedup
    match options.store:
        case "none":
            raise ConfigError("deduplication is off", where="dedup.store")
        case "memory":
            from hexa_worker.dedup.memory import MemoryClaims  # noqa: PLC0415 - lazy by design

            return MemoryClaims(lease_s=options.lease_s, clock=clock)
        case "embedded":
            from hexa_worker.dedup.embedded import EmbeddedClaims  # noqa: PLC0415 - lazy by design

            path = config.folder / options.path
            return EmbeddedClaims(path, lease_s=options.lease_s, timeout_s=options.timeout_s, clock=clock)
        case "redis":
            require_redis(config)
            from hexa_worker.dedup.redis import RedisClaims  # noqa: PLC0415 - lazy by design

            return RedisClaims(options, config.folder)


def require_redis(config: Config) -> None:
    """Look for the client library, if the store of `config` needs it; nothing is imported.

    Raises:
        ConfigError: it is not installed.
    """
    if config.file.dedup.store == "redis" and find_spec("redis") is None:
        hint = "pip install 'hexa-worker[redis]'"
        raise ConfigError("the redis client is not installed", where="dedup.store", hint=hint)

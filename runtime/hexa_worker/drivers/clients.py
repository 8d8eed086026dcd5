"""The client libraries of drivers: each is an extra of the package, so it may not be installed."""

from importlib.util import find_spec
from typing import Final

from hexa_worker.config.model import Config
from hexa_worker.errors import ConfigError

_MODULES: Final = {"kafka": "aiokafka", "nats": "nats", "pulsar": "pulsar"}


def require_client(config: Config) -> None:
    """Look for the client library of the driver that worker.toml names; nothing is imported.

    Raises:
        ConfigError: it is not installed.
    """
    driver = str(config.file.broker.__struct_config__.tag)
    module = _MODULES.get(driver)
    if module is not None and find_spec(module) is None:
        hint = f"pip install 'hexa-worker[{driver}]'"
        raise ConfigError(f"the {driver} client is not installed", where="broker.driver", hint=hint)

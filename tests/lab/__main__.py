"""The brokers by hand: ``python -m tests.lab up|down|status|wipe|fetch [BROKER ...]``.

Without a name: kafka, nats and pulsar for ``up``, all for the others. They live in ``var/brokers`` below the
current directory and go on running; what ``up`` prints can be given to the tests' environment.
"""

# ruff: noqa: T201  a command line prints

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tests.lab.base import Broker
from tests.lab.errors import BrokerError, BrokerUnavailableError
from tests.lab.lab import PLAIN, SECURE, make_broker

_ROOT = Path("var") / "brokers"
_DEFAULT_UP = ("kafka", "nats", "pulsar")


def _up(name: str, broker: Broker) -> int:
    broker.start()
    variable = f"HEXA_TEST_{name.upper().replace('-', '_')}"
    print(f"{variable}={broker.address}")
    if broker.admin_address != broker.address:
        print(f"{variable}_ADMIN={broker.admin_address}")
    return 0


def _down(name: str, broker: Broker) -> int:
    if broker.running:
        broker.stop()
        print(f"{name}: stopped")
    return 0


def _status(name: str, broker: Broker) -> int:
    if not broker.running:
        print(f"{name}: {'killed' if broker.was_killed else 'stopped'}")
        return 1
    print(f"{name}: {'ready' if broker.ready() else 'not ready'}, {broker.version}, pid {broker.pid}, {broker.address}")
    return 0


def _wipe(name: str, broker: Broker) -> int:
    if broker.root.exists():
        broker.close()
        print(f"{name}: wiped")
    return 0


def _fetch(name: str, broker: Broker) -> int:
    broker.fetch()
    print(f"{name}: {broker.version}")
    return 0


_COMMANDS: dict[str, Callable[[str, Broker], int]] = {
    "up": _up,
    "down": _down,
    "status": _status,
    "wipe": _wipe,
    "fetch": _fetch,
}


def main() -> int:
    """Run one command.

    Returns:
        0; 1 if ``status`` found one that was named and does not run; 2 if one could not be had or failed.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=_COMMANDS)
    parser.add_argument("broker", nargs="*", help=", ".join([*PLAIN, *SECURE]))
    arguments = parser.parse_args()
    known = [*PLAIN, *SECURE]
    if unknown := set(arguments.broker) - set(known):
        parser.error(f"no such broker: {', '.join(sorted(unknown))}")
    names = arguments.broker or {"up": _DEFAULT_UP, "fetch": PLAIN}.get(arguments.command, known)
    return max(_run(arguments.command, name, named=bool(arguments.broker)) for name in names)


def _run(command: str, name: str, *, named: bool) -> int:
    broker = make_broker(name, _ROOT, dies_with_us=False)
    if command == "status" and not named and not broker.root.exists():
        return 0
    try:
        code = _COMMANDS[command](name, broker)
    except BrokerUnavailableError as error:
        print(f"{name}: not available: {error}", file=sys.stderr)
        return 2
    except BrokerError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return code if named else 0


if __name__ == "__main__":
    sys.exit(main())

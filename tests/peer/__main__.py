"""``python -m tests.peer``: build the peer before the tests, not inside their time limits."""

# ruff: noqa: T201  a command line prints

import sys

from tests.lab.errors import BrokerUnavailableError
from tests.peer.program import build

if __name__ == "__main__":
    try:
        print(f"peer: {build().parent.name}")
    except BrokerUnavailableError as error:
        print(f"peer: not available: {error}", file=sys.stderr)
        sys.exit(2)

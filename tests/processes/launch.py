"""A parent whose children are stand-ins: ``python -m tests.processes.launch WORKER.TOML [--until-idle]``."""

import os
import sys
from pathlib import Path

from hexa_worker.config.load import load_config
from hexa_worker.errors import ConfigError
from hexa_worker.processes import pool, rolling
from hexa_worker.processes.control import operations
from hexa_worker.processes.parent import run_parent

operations.LIMIT_S = 0.3  # type: ignore[misc]  # as below
pool.STOP_MARGIN_S = 0.2  # type: ignore[misc]  # or a test would wait for a stop that never ends
rolling.READY_LIMIT_S = float(
    os.environ.get("READY_LIMIT_S", rolling.READY_LIMIT_S)
)  # of the one test that is about it


def main() -> int:
    """Run it as the command would."""
    path = Path(sys.argv[1])
    command = (sys.executable, "-m", "tests.processes.scripted_child")
    try:
        return run_parent(path, load_config(path), until_idle="--until-idle" in sys.argv, command=command)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())

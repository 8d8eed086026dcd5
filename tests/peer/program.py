"""The service in Go beside ours: built once per machine from ``go/``, as the brokers are fetched; and run.

hexa-event itself is no module that can be had everywhere, so the peer follows its wire format and its retry policy on
the client that it uses; the records in ``tests/golden`` are hexa-event's own.
"""

import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab.cache import building, cache_dir, need_program, run_tool

SOURCE = Path(__file__).parent / "go"
LIMIT_S = 90
"""How long one run of it may take on a busy machine."""


def build() -> Path:
    """The program, built if it is not there yet.

    Raises:
        BrokerUnavailableError: Go or a module cannot be had on this machine.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCE.iterdir()))).hexdigest()[:8]
    name = f"peer-{digest}"
    with building(name) as target:
        if target is not None:
            need_program("go", package="golang-go")
            options = ["-mod=readonly", "-buildvcs=false", "-o", str(target / "peer")]
            run_tool(["go", "build", *options, "."], cwd=SOURCE, env={"GOFLAGS": ""})
    return cache_dir() / name / "peer"


class Peer:
    """Runs the program beside one Kafka.

    Args:
        program: what `build` gave.
        address: of Kafka.
    """

    def __init__(self, program: Path, address: str) -> None:
        self._program = program
        self._address = address

    def emit(self, *events: dict[str, Any]) -> list[dict[str, int]]:
        """Emit events; the place of each."""
        lines = "".join(json.dumps(event) + "\n" for event in events)
        places: list[dict[str, int]] = self._run("emit", given=lines)
        return places

    def consume(self, topic: str, action: str, *, count: int = 1, fail: Sequence[int] = (), **policy: Any) -> Any:
        """Handle `count` records as a member of the group `action`, then leave it; what was handled.

        Args:
            topic: what the action reads, besides its retry topics.
            action: group and base of the retry topics.
            count: how many records.
            fail: attempts at which the handler fails.
            policy: `retries`, `initial` (seconds), `coefficient`.
        """
        options = [f"-topic={topic}", f"-action={action}", f"-count={count}", f"-fail={','.join(map(str, fail))}"]
        if "initial" in policy:
            policy["initial"] = f"{policy['initial']}s"
        return self._run("consume", *options, *(f"-{name}={value}" for name, value in policy.items()))

    def _run(self, command: str, *options: str, given: str = "") -> Any:
        done = subprocess.run(
            [self._program, command, f"-brokers={self._address}", *options],
            input=given,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

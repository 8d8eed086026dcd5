"""``python -m tests.chaos``: the long form. 100,000 events, 200 kills; the seed is printed for a second look."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.run import Chaos


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--killers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--backend", default="asyncio")
    parser.add_argument("--durability", default="normal")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="keep everything in this folder")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="hexa-chaos-"))
    chaos = Chaos(
        folder,
        options.events,
        options.kills,
        killers=options.killers,
        seed=options.seed,
        backend=options.backend,
        durability=options.durability,
        processes=options.processes,
    )
    begin = time.monotonic()
    violations = chaos.run()
    print(
        f"{options.events} events, {options.kills} kills, seed {options.seed}, {time.monotonic() - begin:.0f} s,"
        f" {chaos.dead} dead letters, ledger {dict(chaos.seen)}"
    )
    for violation in violations[:50]:
        print(violation)
    print(f"{len(violations)} violations" + ("" if not violations else f", everything is in {folder}"))
    sys.exit(1 if violations else 0)


main()

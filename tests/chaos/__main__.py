"""``python -m tests.chaos``: the long form. Kills, outages and more by a seed, which is printed for a second look.

``--broker embedded`` (the default) kills workers only; ``kafka``, ``nats`` and ``pulsar`` start a broker of their own
and break that, too.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.plan import Amounts
from tests.chaos.run import Chaos
from tests.chaos.stages import Stage, embedded, stage_of
from tests.lab.lab import PLAIN, make_broker

BROKERS = ("embedded", *(name for name in PLAIN if name.startswith(("kafka", "nats", "pulsar"))))
LONG: dict[str, dict[str, float]] = {
    "embedded": {"events": 100_000, "killers": 10, "kills": 200},
    "": {
        "events": 60_000,
        "killers": 5,
        "kills": 100,
        "outages": 30,
        "freezes": 5,
        "longest_freeze": 60.0,
        "cuts": 8,
        "black_holes": 5,
        "scales": 4,
        "rolls": 4,
        "bad_rolls": 4,
        "operations": 6,
    },
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker", choices=BROKERS, default="embedded")
    numbers = ["events", "kills", "killers", "outages", "freezes", "cuts", "black-holes", "scales", "rolls"]
    for name in (*numbers, "bad-rolls", "operations"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--longest-freeze", type=float, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--durability", default="normal")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--log", default="error", help="log level of the worker")
    parser.add_argument("--keep", type=Path, help="keep everything in this folder")
    return parser.parse_args()


def _chaos(options: argparse.Namespace, folder: Path, stage: Stage) -> Chaos:
    usual = LONG["embedded" if options.broker == "embedded" else ""]
    given = {name: value for name, value in vars(options).items() if value is not None}
    wanted = {**usual, **{name: value for name, value in given.items() if name in LONG[""]}}
    names = {"longest_freeze": "longest_freeze_s"}
    amounts = {names.get(name, name): value for name, value in wanted.items() if name not in ("events", "killers")}
    return Chaos(
        folder,
        stage,
        Amounts(**{name: value if name.endswith("_s") else int(value) for name, value in amounts.items()}),
        int(wanted["events"]),
        killers=int(wanted["killers"]),
        seed=options.seed,
        backend=options.backend,
        processes=options.processes,
        log=options.log,
        tell=lambda line: print(line, flush=True),
    )


def _tell(chaos: Chaos, seconds: float) -> None:
    amounts = ", ".join(f"{count} {what}" for what, count in sorted(chaos.done.items()))
    emitted, unknown = chaos.emitting.emitted, chaos.emitting.unknown
    print(f"{emitted} events ({unknown} with an unknown end), {amounts}, seed {chaos.seed}, {seconds:.0f} s")
    print(f"{chaos.dead} dead letters, ledger {dict(chaos.seen)}")
    for what, times in sorted(chaos.recoveries.items()):
        print(f"consuming again after {what}: median {statistics.median(times):.1f} s, worst {max(times):.1f} s")


def main() -> None:
    options = _options()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="hexa-chaos-"))
    print(f"seed {options.seed}, everything is in {folder}", flush=True)
    begin = time.monotonic()
    with ExitStack() as stack:
        stage = embedded(options.durability)
        if options.broker != "embedded":
            broker = make_broker(options.broker, folder)
            stack.callback(broker.kill)
            broker.start()
            stage = stage_of(broker)
        chaos = _chaos(options, folder, stage)
        violations = chaos.run()
    _tell(chaos, time.monotonic() - begin)
    for violation in violations[:50]:
        print(violation)
    print(f"{len(violations)} violations")
    sys.exit(1 if violations else 0)


main()

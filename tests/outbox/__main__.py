"""``python -m tests.outbox``: the long form. Writers that never rest; relays, database and broker die beneath them.

``--broker embedded`` (the default) is an outbox in SQLite, whose relays alone can die; ``kafka`` and ``nats`` are one
in PostgreSQL. ``--inbox`` is about the other end: each event comes three times to handlers whose processes die.
"""

import argparse
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.stages import Stage, embedded, stage_of
from tests.lab.base import Broker
from tests.lab.lab import make_broker
from tests.outbox.fleet import Relays, Writer, end_relays, judge, relays, sent
from tests.outbox.stage import Place, make_config, make_tables
from tests.outbox.thrice import effects, prepare, run_worker

POINTS = ("outbox-fetched", "outbox-published", "outbox-advanced")
WRITERS = 4
BATCH = 100
PATIENCE_S = 300.0


class Killing:
    """Two relays at any time, and one misfortune after the other.

    Args:
        place: the outbox.
        fleet: starts relays.
        servers: the processes that may die.
        chance: which misfortune is next.

    Attributes:
        done: how often each one came.
    """

    def __init__(self, place: Place, fleet: Relays, servers: dict[str, Broker], chance: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self._place = place
        self._fleet = fleet
        self._servers = servers
        self._chance = chance
        self._pair: list[subprocess.Popen[bytes]] = [fleet.start(), fleet.start()]

    def strike(self) -> None:
        """One misfortune, and whoever died is replaced."""
        kinds = ["relay", *(["frozen"] if self._servers else []), *self._servers]
        kind = self._chance.choices(kinds, [4, 1, 1, 1][: len(kinds)])[0]
        if kind == "relay":
            victim = self._chance.choice(self._pair)
            victim.kill()
            victim.wait()
        elif kind == "frozen":
            self._freeze(self._chance.choice(self._pair))
        else:
            self._servers[kind].kill()
            time.sleep(self._chance.uniform(0, 0.5))
            self._servers[kind].start()
        if kind != "relay":
            self.done[kind] += 1
        self._replace()

    def calm(self) -> None:
        """Nothing dies from now on."""
        for one in self._pair:
            one.kill()
        self._pair = [self._fleet.start()]

    def _freeze(self, relay: "subprocess.Popen[bytes]") -> None:
        """Stopped for longer than its lock lives: the server gives it to the other one."""
        relay.send_signal(signal.SIGSTOP)
        end_relays(self._place)
        time.sleep(self._chance.uniform(0.5, 2.0))
        relay.send_signal(signal.SIGCONT)

    def _replace(self) -> None:
        for place, one in enumerate(self._pair):
            if one.poll() is None:
                continue
            faults = f"{self._chance.choice(POINTS)}:kill:p=0.02" if self._chance.random() < 0.5 else ""
            self.done["relay"] += 1
            self._pair[place] = self._fleet.start(faults)


def kill_everything(place: Place, servers: dict[str, Broker], options: argparse.Namespace) -> None:
    """Write `options.events`, strike `options.kills` times meanwhile, and judge what arrived."""
    chance = random.Random(options.seed)
    writers = [
        Writer(place, f"{options.seed}-{number}-", options.events // WRITERS, pause_s=options.pause, most=5)
        for number in range(WRITERS)
    ]
    with relays(place) as fleet:
        killing = Killing(place, fleet, servers, chance)
        for one in writers:
            one.start()
        for _ in range(options.kills):
            time.sleep(chance.uniform(0.3, 1.5))
            killing.strike()
        for one in writers:
            one.join()
        killing.calm()
        wait_empty(place)
    found = sent(place)
    twice = len(found) - len(set(found))
    deaths = sum(killing.done.values())
    print(
        f"{sum(len(one.committed) for one in writers):,} events committed, "
        f"{sum(len(one.unknown) for one in writers)} unknown, {len(found):,} arrived, {twice:,} of them again; "
        + ", ".join(f"{count} {what}" for what, count in sorted(killing.done.items()))
    )
    judge(found, writers)
    assert twice <= deaths * BATCH, f"{twice} came again, though {deaths} deaths explain no more than a batch each"


def wait_empty(place: Place) -> None:
    """Return when nothing waits."""
    deadline = time.monotonic() + PATIENCE_S
    store = place.store(leading=False)
    while store.busy():
        assert time.monotonic() < deadline, f"not sent: {store.status(0)}"
        time.sleep(0.2)
    place.let_go()


def stage(options: argparse.Namespace, root: Path, stack: ExitStack) -> tuple[Place, dict[str, Broker]]:
    """The outbox, and the processes that may die."""
    servers: dict[str, Broker] = {}
    table: Stage = embedded()
    url = "sqlite:///shop.db"
    if options.broker != "embedded":
        for name in ("postgres", options.broker):
            servers[name] = make_broker(name, root)
            servers[name].start()
            stack.callback(servers[name].close)
        stack.enter_context(servers[options.broker].open_proxy())
        table, url = stage_of(servers[options.broker]), servers["postgres"].address
    elif options.inbox == "postgres":
        server = make_broker("postgres", root)
        server.start()
        stack.callback(server.close)
        url = server.address
    config = make_config(url, root, table.table, batch=BATCH)
    make_tables(config)
    if url.startswith("sqlite"):
        (root / "var").mkdir()
    return Place(config), servers


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.outbox", description=__doc__)
    parser.add_argument("--broker", choices=["embedded", "kafka", "nats"], default="embedded")
    parser.add_argument("--inbox", choices=["sqlite", "postgres"])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.005, help="of a writer, between two transactions")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hexa-outbox-") as name, ExitStack() as stack:
        Path(name).chmod(0o755)
        place, servers = stage(options, Path(name), stack)
        stack.callback(place.close)
        if options.inbox:
            prepare(place, options.events)
            run_worker(place, deaths=options.kills / (3 * options.events), within_s=3600)
            assert effects(place) == [f"{number:06}" for number in range(options.events)]
        else:
            kill_everything(place, servers, options)
    print(f"it holds, after {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()

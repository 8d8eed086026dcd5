"""What will be broken, and when: pure, made from a seed, so that a run can be repeated blow by blow.

A plan is a list of rounds. Each round has at most one fault of the broker or change of the fleet, and kills of worker
processes around it; after each round the run waits until every subscription consumes again.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

What = Literal[
    "kill-child", "kill-parent", "outage", "freeze", "cut", "black-hole", "scale", "roll", "bad-roll", "operate"
]

PARENTS = 0.1
"""This share of the kills hits the parent."""
OUTAGE_S = (0.2, 3.0)
FREEZE_S = (0.5, 60.0)
"""The first freeze is the longest, the others grow up to it in equal ratios."""
BLACK_HOLE_S = (1.0, 12.0)
"""The shortest, and the longest unless the longest freeze is shorter."""
QUIET_S = 1.0
"""A round without a fault of the broker takes about so long."""
AFTERMATH_S = 4.0
"""Kills also hit what comes after a fault: reconnecting, rebalancing."""
SIZES = (1, 4)
"""A change of scale goes to the smaller number of processes, then to the larger one, and back to what it was."""

ALONE = frozenset({"scale", "roll", "bad-roll", "operate"})
"""Nobody is killed in such a round: a process that is told to go and dies on the way is a failure by itself, and what
an operator destroys could not be told from what a kill repeats."""


class Blow(NamedTuple):
    """One thing that is done.

    Attributes:
        at_s: when, in seconds since the beginning of its round.
        what: which.
        seconds: how long the broker is away; for ``scale`` the pause between two sizes.
        pick: from 0 up to 1, chooses which process is hit or which mistake is made; for ``operate`` the number of the
            operation.
    """

    at_s: float
    what: What
    seconds: float = 0.0
    pick: float = 0.0


Round = tuple[Blow, ...]


class Amounts(NamedTuple):
    """How much is done.

    Attributes:
        kills: worker processes that are killed.
        outages: kills of the broker, which is started again.
        freezes: how often the broker is frozen.
        longest_freeze_s: the longest of them; no black hole is longer.
        cuts: how often all connections are reset.
        black_holes: how often nothing gets through, in silence.
        scales: how often the number of processes changes to 1, to 4 and back.
        rolls: rolling restarts.
        bad_rolls: rolling restarts onto a worker.toml or handlers that cannot start.
        operations: what an operator does to the broker (see `tests.chaos.operations`), in turn.
    """

    kills: int = 0
    outages: int = 0
    freezes: int = 0
    longest_freeze_s: float = FREEZE_S[1]
    cuts: int = 0
    black_holes: int = 0
    scales: int = 0
    rolls: int = 0
    bad_rolls: int = 0
    operations: int = 0


def make_plan(seed: int, amounts: Amounts) -> list[Round]:
    """The rounds; the same for the same arguments."""
    chance = random.Random(seed)
    mains: list[Blow | None] = list(_mains(chance, amounts))
    mains += [None] * (amounts.kills // 4 or amounts.kills > 0)
    chance.shuffle(mains)
    kills: list[list[Blow]] = [[] for _ in mains]
    open_to_kills = [number for number, main in enumerate(mains) if main is None or main.what not in ALONE]
    for _ in range(amounts.kills):
        number = chance.choice(open_to_kills)
        kills[number].append(_kill(chance, mains[number]))
    rounds = ([*killed, *([] if main is None else [main])] for main, killed in zip(mains, kills, strict=True))
    return [tuple(sorted(blows)) for blows in rounds if blows]


def expected_s(plan: Sequence[Round], restart_s: float) -> float:
    """About how long a plan takes, without waiting for recovery.

    Args:
        plan: what is done.
        restart_s: how long the broker takes to start.
    """
    total = 0.0
    for blows in plan:
        ends = [blow.at_s + blow.seconds + restart_s * (blow.what == "outage") for blow in blows]
        total += max(ends) + QUIET_S
    return total


def _mains(chance: random.Random, amounts: Amounts) -> Iterator[Blow]:
    for _ in range(amounts.outages):
        yield Blow(chance.uniform(0, QUIET_S), "outage", chance.uniform(*OUTAGE_S))
    shortest, longest = FREEZE_S[0], amounts.longest_freeze_s
    for number in range(amounts.freezes):
        share = 1 - number / max(amounts.freezes - 1, 1)
        yield Blow(chance.uniform(0, QUIET_S), "freeze", shortest * (longest / shortest) ** share)
    for _ in range(amounts.cuts):
        yield Blow(chance.uniform(0, QUIET_S), "cut")
    longest_hole = min(BLACK_HOLE_S[1], max(longest, BLACK_HOLE_S[0]))
    for _ in range(amounts.black_holes):
        yield Blow(chance.uniform(0, QUIET_S), "black-hole", chance.uniform(BLACK_HOLE_S[0], longest_hole))
    for _ in range(amounts.scales):
        yield Blow(chance.uniform(0, QUIET_S), "scale", chance.uniform(1.0, 3.0))
    for _ in range(amounts.rolls):
        yield Blow(chance.uniform(0, QUIET_S), "roll")
    for _ in range(amounts.bad_rolls):
        yield Blow(chance.uniform(0, QUIET_S), "bad-roll", pick=chance.random())
    for number in range(amounts.operations):
        yield Blow(chance.uniform(0, QUIET_S), "operate", pick=number)


def _kill(chance: random.Random, main: Blow | None) -> Blow:
    span = QUIET_S if main is None else main.at_s + min(main.seconds, AFTERMATH_S) + AFTERMATH_S
    what: What = "kill-parent" if chance.random() < PARENTS else "kill-child"
    return Blow(chance.uniform(0, span), what, pick=chance.random())

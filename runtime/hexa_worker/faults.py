"""Fault injection points: places in the runtime where a test may make it die, fail or stall.

Off unless something is installed: a point then costs one comparison, and points are passed per batch, never
per message. Child processes of a test switch them on by the environment variable `HEXA_WORKER_FAULTS`:
rules ``point:action[:option=value,…]`` separated by ``;``, for example
``before-settle:kill:p=0.01,seed=7;before-publish:unavailable:at=3``.

======== ==================================================================================================
action    what happens
======== ==================================================================================================
kill      the process gets SIGKILL
exit      ``os._exit``; option ``code`` (default 70)
unavailable  `DriverUnavailable` is raised
delay     the task waits; option ``s`` (default 0.1)
======== ==================================================================================================

Options of every action: ``p`` (probability of each hit, default 1), ``at`` (only the hit with this number,
from 1), ``n`` (at most this many times), ``seed`` (makes ``p`` repeatable within one process).
"""

import os
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import msgspec

from hexa_worker.errors import ConfigError, DriverUnavailable

VARIABLE: Final = "HEXA_WORKER_FAULTS"
POINTS: Final = (
    "received",
    "before-handler",
    "after-handler",
    "before-settle",
    "after-settle",
    "before-publish",
    "after-publish",
    "redrive-publish",
    "redrive-remove",
    "redrive-done",
    "import-publish",
    "import-done",
    "outbox-fetched",
    "outbox-published",
    "outbox-advanced",
)
ACTIONS: Final = ("kill", "exit", "unavailable", "delay")
EXIT_CODE: Final = 70

Injector = Callable[[str], Awaitable[None]]
"""Called with the name of each point that is passed; may raise, wait, or never come back."""

_injector: Injector | None = None


async def fault(point: str) -> None:
    """Pass the injection point called `point`. Cancellation: as what is injected; by default none.

    Raises:
        DriverUnavailable: the installed faults say so.
    """
    if _injector is not None:
        await _injector(point)


def install(injector: Injector | None) -> Injector | None:
    """Switch injection on (None: off); returns what was installed before, to be put back."""
    global _injector
    before, _injector = _injector, injector
    return before


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a fault specification; see the module's docstring for the meaning of each field."""

    point: str
    action: str
    p: float = 1.0
    at: int | None = None
    n: int | None = None
    seed: int | None = None
    s: float = 0.1
    code: int = EXIT_CODE


def parse(text: str) -> tuple[Rule, ...]:
    """The rules that `text` spells.

    Raises:
        ConfigError: it spells none; the offending rule is named.
    """
    return tuple(_parse_rule(part.strip()) for part in text.split(";") if part.strip())


def _parse_rule(text: str) -> Rule:
    point, _, rest = text.partition(":")
    action, _, options = rest.partition(":")
    if point not in POINTS:
        raise ConfigError(
            f"unknown fault point {point!r} in {text!r}", where=VARIABLE, hint=f"one of {', '.join(POINTS)}"
        )
    if action not in ACTIONS:
        raise ConfigError(f"unknown action {action!r} in {text!r}", where=VARIABLE, hint=f"one of {', '.join(ACTIONS)}")
    fields: dict[str, str] = {"point": point, "action": action}
    for pair in filter(None, options.split(",")):
        name, _, value = pair.partition("=")
        fields[name.strip()] = value.strip()
    unknown = fields.keys() - set(Rule.__struct_fields__)
    if unknown:
        raise ConfigError(
            f"unknown option {min(unknown)!r} in {text!r}", where=VARIABLE, hint="p, at, n, seed, s or code"
        )
    try:
        return msgspec.convert(fields, Rule, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error} in {text!r}", where=VARIABLE) from error


class _Armed:
    """A rule with its count of hits."""

    __slots__ = ("_fired", "_hits", "_random", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._hits = 0
        self._fired = 0
        self._random = random.Random(rule.seed)  # noqa: S311 - guards nothing

    def fires(self) -> bool:
        rule = self.rule
        self._hits += 1
        if rule.at is not None and self._hits != rule.at:
            return False
        if rule.n is not None and self._fired >= rule.n:
            return False
        if rule.p < 1 and self._random.random() >= rule.p:
            return False
        self._fired += 1
        return True


def injector_of(rules: tuple[Rule, ...]) -> Injector:
    """The injector that does what `rules` say, in their order."""
    armed: dict[str, list[_Armed]] = {}
    for rule in rules:
        armed.setdefault(rule.point, []).append(_Armed(rule))

    async def inject(point: str) -> None:
        for one in armed.get(point, ()):
            if one.fires():
                await _act(one.rule)

    return inject


async def _act(rule: Rule) -> None:
    if rule.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif rule.action == "exit":
        os._exit(rule.code)
    elif rule.action == "unavailable":
        raise DriverUnavailable(f"injected at {rule.point}")
    else:
        await anyio.sleep(rule.s)


if os.environ.get(VARIABLE):
    install(injector_of(parse(os.environ[VARIABLE])))

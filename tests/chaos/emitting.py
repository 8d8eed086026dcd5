"""The emitter of the chaos run: batches at a steady pace, each event's fate in the ledger."""

import random
import threading
from pathlib import Path

import anyio
import msgspec

from hexa_worker import Event
from hexa_worker.clock import SystemClock
from hexa_worker.codecs import encode
from hexa_worker.config.load import load_config
from hexa_worker.drivers.opening import make_driver, opened, specs
from hexa_worker.errors import DriverError, DriverUnavailable
from hexa_worker.event_encoder import EventEncoder
from hexa_worker.subscriptions.loader import load_plans
from hexa_worker.testing.ledger import Ledger

BATCH = 50
KEYS = 50
AWAY_S = 0.2
MIX = [("ok", 880), ("fail-once", 40), ("slow", 50), ("later", 10), ("snooze", 10), ("fail", 5), ("hopeless", 5)]


class Emitting:
    """See the module. `run` it in a thread of its own.

    Args:
        folder: where worker.toml and the ledger are.
        channel: where to.
        events: how many at least; it goes on until `hurry` is set.
        killers: how many of them kill the process that handles them.
        seed: makes the events repeatable.
        rate: events a second, until `hurry` is set.

    Attributes:
        declared: set when the worker may start: everything emitted from now on is kept for it.
        hurry: set it to have what is left emitted at once.
        emitted: how many were tried.
        unknown: of how many of them nobody knows whether they were stored.
    """

    def __init__(self, folder: Path, channel: str, events: int, killers: int, seed: int, rate: float) -> None:
        self._folder = folder
        self._channel = channel
        self._chance = random.Random(seed + 1)
        self._killers = set(self._chance.sample(range(events), killers))
        self._events = events
        self._pause_s = BATCH / rate
        self.declared = threading.Event()
        self.hurry = threading.Event()
        self.emitted = self.unknown = 0

    @property
    def killers(self) -> frozenset[str]:
        """The ids of the events that kill the process that handles them."""
        return frozenset(f"{self._channel}-{number}" for number in self._killers)

    def run(self) -> None:
        """Emit them."""
        anyio.run(self._run)

    async def _run(self) -> None:
        config = load_config(self._folder / "worker.toml")
        ledger = Ledger(self._folder / "ledger")
        async with opened(make_driver(config)) as driver:
            await driver.declare(specs(load_plans(config)))
            self.declared.set()
            emitter = EventEncoder(driver, SystemClock(), encode)
            while self.emitted < self._events or not self.hurry.is_set():
                events = [self._event(self.emitted + number) for number in range(BATCH)]
                self.emitted += BATCH
                if not await self._emit(emitter, ledger, events):
                    await anyio.sleep(AWAY_S)
                if not self.hurry.is_set():
                    await anyio.sleep(self._pause_s)

    def _event(self, number: int) -> Event:
        names, weights = zip(*MIX, strict=True)
        does = "kill" if number in self._killers else self._chance.choices(names, weights)[0]
        payload = {"number": number, "does": does}
        return Event(channel=self._channel, payload=payload, key=f"k{number % KEYS}", id=f"{self._channel}-{number}")

    async def _emit(self, emitter: EventEncoder, ledger: Ledger, events: list[Event]) -> bool:
        tokens = [
            ledger.emit_begin(one.channel or "", msgspec.json.encode(one.payload), str(one.key), one.id or "")
            for one in events
        ]
        try:
            answers = await emitter.emit_many(events)
        except DriverUnavailable as error:
            answers = [error] * len(events)
        for token, answer in zip(tokens, answers, strict=True):
            if isinstance(answer, DriverError):
                self.unknown += 1
                ledger.emit_unknown(token)
            else:
                ledger.emit_ok(token, answer)
        return not any(isinstance(answer, DriverError) for answer in answers)

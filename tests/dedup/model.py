"""A claim store's model, and a machine of two workers that compares a store with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from hexa_worker.core.claims import SKIP, WAIT, Answer, Ask, Ending, Granted, GrantedClaim
from hexa_worker.dedup.base import ClaimStore

LEASE_S = 1_000.0
"""So long that it only runs out when a test says so."""
KEEP_MS = 10**9
KEYS = ("a", "b", "c")


@dataclass
class FakeClock:
    """Both clocks, moved by hand."""

    ms: int = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class World(Protocol):
    """What two workers share, the store of each, and what can happen to them."""

    @property
    def stores(self) -> Sequence[ClaimStore]:
        """The store of each worker."""
        ...

    def crash(self, portal: BlockingPortal, worker: int) -> None:
        """A worker's process is gone; another one begins in its place."""

    def expire_leases(self, portal: BlockingPortal, dead: str, alive: Sequence[GrantedClaim]) -> None:
        """The leases of owners whose names begin with `dead` run out; those of `alive` are extended in time."""

    def flush(self, portal: BlockingPortal) -> None:
        """All that was kept is gone."""

    def close(self, portal: BlockingPortal) -> None:
        """The end."""


@dataclass(frozen=True)
class Known:
    """What the model knows of a key: who holds it, or which attempt is to come (None: it is done)."""

    owner: str | None
    fence: int
    attempt: int | None


@dataclass
class Model:
    """What a claim store should say, written down once more and simply."""

    known: dict[str, Known] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)

    def claim(self, ask: Ask, answer: Answer) -> None:
        """Check an answer and believe its fence."""
        now = self.known.get(ask.key)
        if now is not None and now.owner is not None and now.owner != ask.owner:
            assert answer is WAIT, "a claim that another owner holds was given away"
        elif now is not None and now.owner == ask.owner:
            assert answer == Granted(now.fence), "asking twice changed the answer"
        elif now is not None and (now.attempt is None or ask.attempt < now.attempt):
            assert answer is SKIP, "a duplicate was not recognised"
        else:
            assert isinstance(answer, Granted), "an event that nobody has handled was held back"
            assert answer.fence > self.fences.get(ask.key, 0), "a fence did not rise"
            self.fences[ask.key] = answer.fence
            self.known[ask.key] = Known(ask.owner, answer.fence, ask.attempt)

    def end(self, ending: Ending) -> bool:
        """What the store should say to an end."""
        held = ending.held
        now = self.known.get(held.key)
        if now is not None and now.owner is None:
            return now.fence == held.fence
        if now is not None and now.owner != held.owner:
            return False
        self.known[held.key] = Known(None, held.fence, ending.following)
        return True

    def extend(self, held: GrantedClaim) -> bool:
        """What the store should say to an extension."""
        now = self.known.get(held.key)
        if now is not None and now.owner != held.owner:
            return False
        self.known[held.key] = Known(held.owner, held.fence, held.attempt)
        return True

    def held(self, but: str) -> list[GrantedClaim]:
        """What owners hold whose names do not begin with `but`."""
        return [
            GrantedClaim(key, one.owner, one.fence, one.attempt or 0)
            for key, one in self.known.items()
            if one.owner is not None and not one.owner.startswith(but)
        ]

    def expire(self, dead: str) -> None:
        """The leases of the owners whose names begin with `dead` run out."""
        self.known = {
            key: one for key, one in self.known.items() if one.owner is None or not one.owner.startswith(dead)
        }


workers = st.integers(0, 1)
asks = st.tuples(st.sampled_from(KEYS), st.integers(0, 2))


class ClaimsMachine(RuleBasedStateMachine):
    """Two workers that do what they like with their stores, and a model that says what the stores should answer."""

    granted: Bundle[GrantedClaim] = Bundle("granted")

    @initialize()
    def begin(self) -> None:
        self.running = start_blocking_portal("asyncio")
        self.portal = self.running.__enter__()
        self.world = self.make_world(self.portal)
        self.model = Model()
        self.count = 0

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.portal.call(function, *args)

    def store_of(self, held: GrantedClaim) -> ClaimStore:
        return self.world.stores[int(held.owner[0])]

    @rule(target=granted, worker=workers, wanted=st.lists(asks, min_size=1, max_size=6))
    def claim(self, worker: int, wanted: Sequence[tuple[str, int]]) -> Any:
        batch = []
        for key, attempt in wanted:
            self.count += 1
            batch.append(Ask(key, f"{worker}:{self.count}", attempt))
        answers = self.call(self.world.stores[worker].claim, batch)
        for ask, answer in zip(batch, answers, strict=True):
            self.model.claim(ask, answer)
        return multiple(
            *(
                GrantedClaim(ask.key, ask.owner, answer.fence, ask.attempt)
                for ask, answer in zip(batch, answers, strict=True)
                if isinstance(answer, Granted)
            )
        )

    @rule(held=granted)
    def claim_again(self, held: GrantedClaim) -> None:
        ask = Ask(held.key, held.owner, held.attempt)
        now = self.model.known.get(held.key)
        if now is not None and now.owner == held.owner:
            (answer,) = self.call(self.store_of(held).claim, [ask])
            self.model.claim(ask, answer)

    @rule(
        worker=workers,  # whoever says it
        batch=st.lists(st.tuples(granted, st.sampled_from((None, 0, 1, 2, 3))), min_size=1, max_size=3),
    )
    def end(self, worker: int, batch: Sequence[tuple[GrantedClaim, int | None]]) -> None:
        endings = [Ending(held, following, KEEP_MS) for held, following in batch]
        answers = self.call(self.world.stores[worker].end, endings)
        assert list(answers) == [self.model.end(one) for one in endings]

    @rule(held=consumes(granted))
    def succeed(self, held: GrantedClaim) -> None:
        ending = Ending(held, None, KEEP_MS)
        for _ in range(2):  # the first answer may be lost
            assert list(self.call(self.store_of(held).end, [ending])) == [self.model.end(ending)]

    @rule(held=granted)
    def extend(self, held: GrantedClaim) -> None:
        assert list(self.call(self.store_of(held).extend, [held])) == [self.model.extend(held)]

    @rule(worker=workers)
    def a_worker_crashes_and_what_it_held_stays_held(self, worker: int) -> None:
        self.world.crash(self.portal, worker)

    @rule(worker=workers)
    def a_worker_crashes_and_its_leases_run_out_while_the_other_one_extends(self, worker: int) -> None:
        dead = f"{worker}:"
        self.world.crash(self.portal, worker)
        self.world.expire_leases(self.portal, dead, self.model.held(but=dead))
        self.model.expire(dead)

    @rule()
    def all_leases_run_out(self) -> None:
        self.world.expire_leases(self.portal, "", [])
        self.model.expire("")

    @rule()
    def flush(self) -> None:
        self.world.flush(self.portal)
        self.model.known.clear()

    @invariant()
    def nothing_is_both_done_and_held(self) -> None:
        known = getattr(self, "model", Model()).known
        assert all(one.owner is None or one.attempt is not None for one in known.values())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close(self.portal)
        if hasattr(self, "running"):
            self.running.__exit__(None, None, None)

    def make_world(self, portal: BlockingPortal) -> World:
        """The stores."""
        raise NotImplementedError


def machine_of(make_world: Callable[[BlockingPortal], World]) -> type[ClaimsMachine]:
    """A state machine over the stores that `make_world` makes."""

    class Machine(ClaimsMachine):
        def make_world(self, portal: BlockingPortal) -> World:
            return make_world(portal)

    return Machine

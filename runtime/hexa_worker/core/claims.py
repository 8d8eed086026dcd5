"""Claims: who may carry out an effect now, and whether it was carried out before. Pure.

An effect is named by a key (see `hexa_worker.core.idempotency`). The life of its claim:

    nothing  --claim-->  held by an owner, until its lease ends  --done-->      done, until it is forgotten
                                       |    ^
                                 handed on  |  claim, by a delivery of that attempt or a later one
                                       v    |
                                retrying: a record of attempt n is on its way

A retry is therefore never its own duplicate, while a copy of an attempt that has ended in a retry is one. Stores keep
`ClaimEntry`s and ask these functions; the Redis store says the same in Lua.
"""

from enum import Enum

import msgspec

LEASE_LIMIT = 4
"""A lease that ends later than this many leases from now was written before the clock was set back: it is over."""


class ClaimPhase(Enum):
    """Where a claim is in its life."""

    HELD = "held"
    RETRYING = "retrying"
    DONE = "done"


class ClaimEntry(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What is known of one effect.

    Attributes:
        phase: see the module.
        fence: rises with every owner; the owner's in `ClaimPhase.HELD`.
        until_ms: the entry means nothing from then on.
        attempt: of the holder's delivery, or of the retry record that is on its way.
        owner: who holds it.
    """

    phase: ClaimPhase
    fence: int
    until_ms: int
    attempt: int = 0
    owner: str = ""


class Ask(msgspec.Struct, frozen=True, gc=False):
    """A delivery that wants to carry out an effect.

    Attributes:
        key: names the effect.
        owner: names this delivery in this process; asking again under the same name is harmless.
        attempt: the delivery's.
    """

    key: str
    owner: str
    attempt: int


class GrantedClaim(msgspec.Struct, frozen=True, gc=False):
    """A claim that was granted."""

    key: str
    owner: str
    fence: int
    attempt: int


class Ending(msgspec.Struct, frozen=True, gc=False):
    """The end of a claim.

    Attributes:
        held: the claim.
        following: the attempt that is to come; 0 when the first one was handed back; None: the effect is done.
        keep_ms: how long this is remembered.
    """

    held: GrantedClaim
    following: int | None
    keep_ms: int


class Granted(msgspec.Struct, frozen=True, gc=False):
    """The effect is yours to carry out; `fence` is higher than that of anybody who had it before."""

    fence: int


class Skip(msgspec.Struct, frozen=True, gc=False):
    """It was carried out before, or the retry that will do it is stored: the delivery is a duplicate."""


class Wait(msgspec.Struct, frozen=True, gc=False):
    """Somebody else has it in hand now: ask again later."""


Answer = Granted | Skip | Wait
SKIP = Skip()
WAIT = Wait()


def claim(entry: ClaimEntry | None, ask: Ask, *, now_ms: int, lease_ms: int) -> tuple[Answer, ClaimEntry | None]:
    """Answer a delivery, and what is known afterwards."""
    known = _valid(entry, now_ms, lease_ms)
    if known is None:
        return _granted(entry, ask, now_ms, lease_ms)
    if known.phase is ClaimPhase.DONE:
        return SKIP, known
    if known.phase is ClaimPhase.RETRYING:
        return (SKIP, known) if ask.attempt < known.attempt else _granted(known, ask, now_ms, lease_ms)
    if known.owner == ask.owner:
        return Granted(known.fence), msgspec.structs.replace(known, until_ms=now_ms + lease_ms)
    return WAIT, known


def end(entry: ClaimEntry | None, ending: Ending, *, now_ms: int, lease_ms: int) -> tuple[bool, ClaimEntry | None]:
    """End a claim, perhaps for the second time; False when somebody else has taken it over (and nothing changes)."""
    known = _valid(entry, now_ms, lease_ms)
    held = ending.held
    if known is not None and known.phase is not ClaimPhase.HELD:
        return known.fence == held.fence, known
    if known is not None and known.owner != held.owner:
        return False, known
    until_ms = now_ms + ending.keep_ms
    if ending.following is None:
        return True, ClaimEntry(phase=ClaimPhase.DONE, fence=held.fence, until_ms=until_ms)
    return True, ClaimEntry(phase=ClaimPhase.RETRYING, fence=held.fence, until_ms=until_ms, attempt=ending.following)


def extend(
    entry: ClaimEntry | None, held: GrantedClaim, *, now_ms: int, lease_ms: int
) -> tuple[bool, ClaimEntry | None]:
    """Lengthen a claim's lease, also one that has run out or was forgotten; False when somebody else has taken it."""
    known = _valid(entry, now_ms, lease_ms)
    if known is not None and (known.phase is not ClaimPhase.HELD or known.owner != held.owner):
        return False, known
    return True, ClaimEntry(
        phase=ClaimPhase.HELD, fence=held.fence, until_ms=now_ms + lease_ms, attempt=held.attempt, owner=held.owner
    )


def _valid(entry: ClaimEntry | None, now_ms: int, lease_ms: int) -> ClaimEntry | None:
    if entry is None or entry.until_ms <= now_ms:
        return None
    if entry.phase is ClaimPhase.HELD and entry.until_ms > now_ms + LEASE_LIMIT * lease_ms:
        return None
    return entry


def _granted(entry: ClaimEntry | None, ask: Ask, now_ms: int, lease_ms: int) -> tuple[Answer, ClaimEntry]:
    """A fence is made of the time, so that it rises even across a store that has forgotten everything."""
    fence = max(now_ms * 1000, 0 if entry is None else entry.fence + 1)
    until_ms = now_ms + lease_ms
    return Granted(fence), ClaimEntry(
        phase=ClaimPhase.HELD, fence=fence, until_ms=until_ms, attempt=ask.attempt, owner=ask.owner
    )

"""How far a PostgreSQL outbox is sent, in snapshots and ids. Pure."""

from msgspec.structs import replace

from hexa_worker.outbox.base import RelayPosition


class Snapshot:
    """A ``pg_snapshot`` in its text form, ``xmin:xmax:xip,xip``.

    Args:
        text: as PostgreSQL writes it.
    """

    def __init__(self, text: str) -> None:
        low, high, running = text.split(":")
        self.text = text
        self.xmin = int(low)
        self.xmax = int(high)
        self.running = frozenset(int(one) for one in running.split(",") if one)

    def has_ended(self, xid: int) -> bool:
        """Whether a transaction had committed or rolled back."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)


class PgPlace(RelayPosition, frozen=True, kw_only=True):
    """Everything visible in `low` is sent, and of what is visible in `high`, too, the ids up to `last_id`.

    Attributes:
        seq: counts the places that were noted; who notes one that is there already is not the leader any more.
        low: a snapshot.
        low_id: the highest id that was drawn before `low` was taken.
        high: a later one; the same as `low` when nothing was read since.
        high_id: the highest id that was drawn before `high` was taken.
        last_id: see above; 0 at the beginning.
    """

    seq: int
    low: str
    low_id: int
    high: str
    high_id: int
    last_id: int

    @property
    def finished(self) -> bool:
        """Everything that is visible in `high` is sent, and was noted so."""
        return self.low == self.high

    def begun(self, high: str, high_id: int) -> "PgPlace":
        """The same place, seen from a later snapshot."""
        return replace(self, high=high, high_id=high_id, last_id=0)

    def after(self, last_id: int | None) -> "PgPlace":
        """Behind a batch that ended with `last_id`; None: behind all of them."""
        if last_id is not None:
            return replace(self, seq=self.seq + 1, last_id=last_id)
        return replace(self, seq=self.seq + 1, low=self.high, low_id=self.high_id, last_id=0)


def something_new(place: PgPlace, drawn_id: int, now: Snapshot) -> bool:
    """Whether rows may be visible that were not in `place.low`: ids were drawn since, or who ran then has ended."""
    if drawn_id != place.low_id:
        return True
    return any(now.has_ended(xid) for xid in Snapshot(place.low).running)

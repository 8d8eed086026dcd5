"""Which dead letters are meant, and which look alike. Pure."""

import msgspec

from hexa_worker.dead_letters.dead_letter import StoredDeadLetter


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant: those that match everything that is set.

    Attributes:
        action: of this subscription.
        error: whose error has this class.
        reason: that died for this reason.
        fingerprint: whose failures look alike.
        root_id: of the tree of this event.
        older_than_ms: dead for longer than this.
        newer_than_ms: dead for less long than this.
        ids: exactly these; empty: any.
    """

    action: str | None = None
    error: str | None = None
    reason: str | None = None
    fingerprint: str | None = None
    root_id: str | None = None
    older_than_ms: int | None = None
    newer_than_ms: int | None = None
    ids: frozenset[str] = frozenset()

    @property
    def empty(self) -> bool:
        """Whether they let everything pass."""
        return self == Filters()

    def match(self, letter: StoredDeadLetter, now_ms: int) -> bool:
        """Whether `letter` is meant."""
        age_ms = now_ms - letter.dead_at_ms
        return (
            (not self.ids or letter.id in self.ids)
            and self.action in {None, letter.action}
            and self.error in {None, letter.error_class, letter.error_class.rpartition(".")[2]}
            and self.reason in {None, letter.reason}
            and self.fingerprint in {None, letter.fingerprint}
            and self.root_id in {None, letter.root_id, letter.event_id}
            and (self.older_than_ms is None or age_ms > self.older_than_ms)
            and (self.newer_than_ms is None or age_ms < self.newer_than_ms)
        )


class AlikeGroup(msgspec.Struct, kw_only=True):
    """Dead letters that look alike, counted."""

    action: str
    fingerprint: str
    reason: str
    error: str
    count: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def add(self, letter: StoredDeadLetter) -> None:
        self.first_ms = min(self.first_ms, letter.dead_at_ms) if self.count else letter.dead_at_ms
        self.last_ms = max(self.last_ms, letter.dead_at_ms)
        self.count += 1


def count_into(groups: dict[tuple[str, str], AlikeGroup], letter: StoredDeadLetter) -> None:
    """Add `letter` to the group it belongs to."""
    group = groups.get((letter.action, letter.fingerprint))
    if group is None:
        group = groups[letter.action, letter.fingerprint] = AlikeGroup(
            action=letter.action, fingerprint=letter.fingerprint, reason=letter.reason, error=letter.error
        )
    group.add(letter)

"""What one consumer has asked its server for and not got yet. Pure: times are given.

The server says every now and then that it has not forgotten a pull. When it stops saying so, or a pull is older than
it asked to be, nothing more comes of what was asked for.
"""

EXPIRES_S = 30.0
HEARTBEAT_S = 2.5
SILENCE_S = 2 * HEARTBEAT_S + 0.5
ACTIVE_S = 1.0
IDLE_PULL = 16
_NANOSECONDS = 1_000_000_000


class PullWindow:
    """Outstanding pulls.

    Args:
        now: monotonic.

    Attributes:
        outstanding: how many messages may still come.
        active_at: when the latest ones came (monotonic).
    """

    __slots__ = ("_average_bytes", "_expires_at", "_heard_at", "_number", "_pulls", "active_at", "outstanding")

    def __init__(self, now: float) -> None:
        self.outstanding = 0
        self.active_at = 0.0
        self._average_bytes = 256.0
        self._pulls: dict[int, int] = {}  # how many of each may still come, the oldest first
        self._number = 0
        self._heard_at = now
        self._expires_at = 0.0

    def pull(self, count: int, now: float) -> tuple[int, bytes]:
        """Note that `count` more are asked for; returns the pull's number and what it says."""
        if not self._pulls:
            self._heard_at = now
        self._number += 1
        self._pulls[self._number] = count
        self.outstanding += count
        self._expires_at = now + EXPIRES_S + SILENCE_S
        return self._number, b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (
            count,
            int(EXPIRES_S * _NANOSECONDS),
            int(HEARTBEAT_S * _NANOSECONDS),
        )

    def heard(self, now: float) -> None:
        """The server said something."""
        self._heard_at = now

    def came(self, count: int) -> None:
        """So many of what was asked for have come; the oldest pull is served first."""
        pulls = self._pulls
        self.outstanding = max(self.outstanding - count, 0)
        while count and pulls:
            first = next(iter(pulls))
            if pulls[first] > count:
                pulls[first] -= count
                return
            count -= pulls.pop(first)

    def measured(self, count: int, size: int, now: float) -> None:
        """So many messages with so many bytes of payload are to be handled."""
        self.active_at = now
        self._average_bytes += (max(size / count, 64.0) - self._average_bytes) * 0.25

    def ended(self, number: int) -> None:
        """Nothing more comes of a pull."""
        self.outstanding = max(self.outstanding - self._pulls.pop(number, 0), 0)

    def forget(self) -> None:
        """Nothing more comes of any."""
        self._pulls.clear()
        self.outstanding = 0

    def fell_silent(self, now: float) -> bool:
        """Whether the server stopped talking about what it was asked for; it can be asked anew then."""
        silent = bool(self._pulls) and (now - self._heard_at > SILENCE_S or now > self._expires_at)
        if silent:
            self.forget()
        return silent

    def share(self, room: int, room_bytes: int, consumers: int, active: int, now: float) -> int:
        """How many may be outstanding here of `room` for all consumers, `active` of which got something lately."""
        if consumers > 1 and active and now - self.active_at > ACTIVE_S:
            wanted = min(IDLE_PULL, room // (2 * consumers))
        else:
            wanted = room // (active or consumers)
        by_size = int(room_bytes / self._average_bytes / (active or consumers))
        return max(1, min(wanted, by_size))

"""Event ids: unique, sortable by time, cheap.

``{milliseconds:012x}-{random:016x}-{count:x}``: the first part orders by time, the second tells processes
apart, the third tells the events of one process and millisecond apart. Only visible ASCII, about 32 characters.
"""


class IdSource:
    """Makes event ids.

    Args:
        entropy: 64 random bits, drawn once per process.
    """

    __slots__ = ("_count", "_entropy")

    def __init__(self, entropy: int) -> None:
        self._entropy = f"{entropy & 0xFFFF_FFFF_FFFF_FFFF:016x}"
        self._count = 0

    def new(self, now_ms: int) -> str:
        """A new id for an event emitted at `now_ms`."""
        self._count += 1
        return f"{now_ms:012x}-{self._entropy}-{self._count:x}"

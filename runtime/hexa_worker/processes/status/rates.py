"""How fast subscriptions are: handled deliveries a second, over the last seconds."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

WINDOW_S: Final = 10.0
STEP_S: Final = 1.0


class Rates:
    """Looks at counts now and then.

    Args:
        monotonic: the clock.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._samples: deque[tuple[float, Mapping[str, int]]] = deque(maxlen=int(WINDOW_S / STEP_S) + 1)

    def note(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """There may be something new to count; looks at most every `STEP_S`."""
        now = self._monotonic()
        if not self._samples or now - self._samples[-1][0] >= STEP_S:
            self._samples.append((now, counts()))

    def per_second(self) -> dict[str, float]:
        """By action; nothing of what is not known for long enough."""
        recent = [sample for sample in self._samples if self._monotonic() - sample[0] <= WINDOW_S + STEP_S]
        if len(recent) < 2:  # noqa: PLR2004 - a difference needs two
            return {}
        (began, before), (ended, after) = recent[0], recent[-1]
        return {action: max(count - before.get(action, 0), 0) / (ended - began) for action, count in after.items()}

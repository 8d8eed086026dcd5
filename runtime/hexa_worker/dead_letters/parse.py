"""What a user writes for ages and rates, as numbers."""

import math
import re

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``2h``, ``1h30m``, ``7d``; a bare number is seconds.

    Raises:
        ValueError: it is no duration.
    """
    compact = text.replace(" ", "").lower()
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        return float(compact)
    parts = _PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise ValueError(f"{text!r} is no duration; write 90s, 15m, 2h, 7d or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def parse_rate(text: str) -> float:
    """Events per second of ``50/s``, ``600/m`` or ``50``.

    Raises:
        ValueError: it is no rate.
    """
    number, _, unit = text.replace(" ", "").lower().partition("/")
    try:
        rate = float(number) / _UNITS_S[unit or "s"]
    except (ValueError, KeyError):
        rate = 0.0
    if not 0 < rate < math.inf:
        raise ValueError(f"{text!r} is no rate; write 50/s or 600/m")
    return rate

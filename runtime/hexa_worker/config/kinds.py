"""The kinds of values a key can take: whether a value is one, and how an error calls them."""

import math
import re
from typing import Any

from msgspec import inspect


def parse_scalar(text: str, type_: inspect.Type) -> Any:
    """Text out of a reference as the number or truth value its key wants; unparsable text stays text."""
    if isinstance(type_, inspect.BoolType):
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    try:
        return int(text) if isinstance(type_, inspect.IntType) else float(text)
    except ValueError:
        return text


def is_kind(value: Any, type_: inspect.Type) -> bool:  # noqa: PLR0911 - one line per kind
    """Whether a TOML value is of a type's kind, ranges left aside."""
    match type_:
        case inspect.Metadata():
            return is_kind(value, type_.type)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case inspect.StrType() | inspect.CustomType() | inspect.LiteralType():
            return isinstance(value, str)
        case inspect.DictType() | inspect.StructType():
            return isinstance(value, dict)
        case inspect.VarTupleType() | inspect.ListType():
            return isinstance(value, list)
        case inspect.AnyType():
            return True
        case _:
            return False


def in_range(value: Any, type_: inspect.Type) -> bool:
    """Whether a value of the right kind keeps its limits."""
    match type_:
        case inspect.IntType() | inspect.FloatType():
            if isinstance(type_, inspect.FloatType) and not _is_finite(value):
                return False
            return (
                (type_.ge is None or value >= type_.ge)
                and (type_.gt is None or value > type_.gt)
                and (type_.le is None or value <= type_.le)
                and (type_.lt is None or value < type_.lt)
            )
        case inspect.StrType():
            return (
                len(value) >= (type_.min_length or 0)
                and (type_.max_length is None or len(value) <= type_.max_length)
                and (type_.pattern is None or re.search(type_.pattern, value) is not None)
            )
        case _:
            return True


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def kind(type_: inspect.Type) -> str:  # noqa: PLR0911 - one line per kind
    """What a key takes, in words: ``an integer from 1 to 1024``."""
    match type_:
        case inspect.Metadata():
            return str((type_.extra_json_schema or {}).get("description", "")) or kind(type_.type)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"an integer{_range(type_)}"
        case inspect.FloatType():
            return f"a number{_range(type_)}"
        case inspect.LiteralType():
            return listed([str(one) for one in type_.values])
        case inspect.StrType():
            return _kind_of_text(type_)
        case inspect.CustomType():
            return "a string"
        case inspect.VarTupleType() | inspect.ListType():
            return "an array"
        case inspect.UnionType():
            return " or ".join(kind(one) for one in type_.types if not isinstance(one, inspect.NoneType))
        case _:
            return "a table"


def _kind_of_text(type_: inspect.StrType) -> str:
    if type_.pattern is not None:
        return f"a string that matches {type_.pattern}"
    return "a non-empty string" if type_.min_length else "a string"


def _range(type_: inspect.IntType | inspect.FloatType) -> str:
    low, high = type_.ge, type_.le
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    if low is not None:
        return f" of at least {low:g}"
    if type_.gt is not None:
        return f" above {type_.gt:g}"
    return "" if high is None else f" of at most {high:g}"


def listed(names: list[str]) -> str:
    """Names as a choice: ``"a", "b" or "c"``."""
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"

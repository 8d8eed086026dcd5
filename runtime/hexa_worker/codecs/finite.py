"""Numbers that JSON cannot say: msgspec and pydantic write null for NaN and Infinity, and nobody would be told."""

import math
import re
from collections.abc import Iterable
from enum import Enum
from typing import Any

import msgspec

_IN_MSGPACK = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")
"""A float without a finite value, in MessagePack; now and then something else."""
_pack = msgspec.msgpack.Encoder(enc_hook=lambda _value: None).encode


def require_finite(payload: Any) -> None:
    """Check that a payload which was encoded holds no such number.

    Models of pydantic and protobuf inside of it are not looked into.

    Raises:
        ValueError: it does; the text says where: ``$.lines[3].amount``.
    """
    try:
        if _IN_MSGPACK.search(_pack(payload)) is None:
            return
    except Exception:  # noqa: BLE001, S110 - not everything that JSON can say can be packed: look at it all
        pass
    todo: list[tuple[str, Any]] = [("$", payload)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"JSON has no {value!r} - at `{path}`")
        todo.extend(_inside(path, value))


def _inside(path: str, value: Any) -> Iterable[tuple[str, Any]]:
    """What a value is made of, as msgspec writes it."""
    if isinstance(value, dict):
        return [(f"{path}.{key}", one) for key, one in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"{path}[{number}]", one) for number, one in enumerate(value)]
    if isinstance(value, Enum):
        return [(path, value.value)]
    kind = type(value)
    names: Iterable[str] = ()
    if isinstance(value, msgspec.Struct):
        names = kind.__struct_fields__
    elif hasattr(kind, "__dataclass_fields__"):
        names = kind.__dataclass_fields__
    elif hasattr(kind, "__attrs_attrs__"):
        names = [one.name for one in kind.__attrs_attrs__ if not one.name.startswith("_")]
    return [(f"{path}.{name}", getattr(value, name, None)) for name in names]

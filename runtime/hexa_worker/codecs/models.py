"""pydantic models; imported only when a handler uses one."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal

import msgspec
from pydantic import VERSION, AliasChoices, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from hexa_worker.codecs.annotations import is_pydantic, parts, text_of
from hexa_worker.codecs.finite import require_finite
from hexa_worker.errors import ConfigError, DecodeError

_EITHER_NAME: dict[str, Any] = {}
"""Fields are read by their aliases and by their names, for a model may write the one and read the other."""
if tuple(map(int, VERSION.split(".")[:2])) >= (2, 11):
    _EITHER_NAME = {"by_alias": True, "by_name": True}


def pydantic_decoder(annotation: Any, codec: Literal["json", "msgpack"]) -> Callable[[bytes], Any]:
    """A decoder whose errors say where and what, never the payload's own values (pydantic's text does).

    Raises:
        ConfigError: pydantic cannot make it.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except (PydanticUserError, TypeError, NameError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{text_of(annotation)} cannot be decoded: {reason}") from error
    validate = adapter.validate_json if codec == "json" else adapter.validate_python
    unpack = None if codec == "json" else msgspec.msgpack.Decoder().decode

    def decode(payload: bytes) -> Any:
        try:
            return validate(payload if unpack is None else unpack(payload), **_EITHER_NAME)
        except ValidationError as error:
            raise DecodeError(_described(error)) from None

    return decode


def _described(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    first = details[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{first['msg']}{f' - at `{place}`' if place else ''}{more}"


def encode_pydantic(payload: Any) -> bytes:
    """A model as JSON that the same model reads: by its aliases, unless it reads other ones than it writes.

    Raises:
        ValueError: it holds NaN or an infinity, which its class does not write in a way of its own.
    """
    cls: Any = type(payload)
    by_alias = _reads_what_it_writes(cls)
    encoded: bytes = cls.__pydantic_serializer__.to_json(payload, by_alias=by_alias)
    if b"null" in encoded:
        require_finite(cls.__pydantic_serializer__.to_python(payload, by_alias=by_alias))
    return encoded


@cache
def _reads_what_it_writes(cls: Any) -> bool:
    """Whether a model, and every model in it, reads fields by the aliases that it writes."""
    return all(
        (field.serialization_alias or name) in _read_as(name, field)
        for model in _models_in(cls)
        for name, field in model.__pydantic_fields__.items()
    )


def _read_as(name: str, field: FieldInfo) -> set[str]:
    """The names that a field is read by."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return {name, *(one for one in choices if isinstance(one, str))}


def _models_in(cls: Any) -> Iterator[Any]:
    todo, seen = [cls], set[Any]()
    while todo:
        model = todo.pop()
        if model in seen:
            continue
        seen.add(model)
        yield model
        for field in model.__pydantic_fields__.values():
            todo.extend(one for one in parts(field.annotation) if is_pydantic(one) and one not in seen)

"""pydantic models; imported only when a handler uses one."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from hexa_worker.codecs.annotations import text_of
from hexa_worker.errors import ConfigError, DecodeError


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
            return validate(payload if unpack is None else unpack(payload))
        except ValidationError as error:
            raise DecodeError(_described(error)) from None

    return decode


def _described(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    first = details[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{first['msg']}{f' - at `{place}`' if place else ''}{more}"

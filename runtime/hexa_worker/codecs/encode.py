"""Encoding what a user emits: bytes and str go out as they are, anything else as JSON."""

from enum import Enum
from typing import Any

import msgspec

from hexa_worker.codecs.annotations import is_protobuf, is_pydantic
from hexa_worker.codecs.finite import require_finite
from hexa_worker.errors import ConfigError


def encode(payload: Any) -> bytes:
    """The bytes of a payload.

    A msgspec Struct, dataclass, attrs object, TypedDict, pydantic model, protobuf message or plain data
    becomes JSON.

    Raises:
        ConfigError: there is no JSON for it, NaN and Infinity in it included.
    """
    if isinstance(payload, bytes):
        return payload
    try:
        return _encoded(payload)
    except ConfigError:
        raise  # of a model inside, which it names
    except (Exception, SystemExit, GeneratorExit) as error:  # a user's object may raise anything while it is read
        raise ConfigError(
            f"a payload of type {type(payload).__qualname__} cannot be encoded: {error}",
            hint="emit bytes, str, or what JSON can say",
        ) from error


def _encoded(payload: Any) -> bytes:
    if isinstance(payload, str) and not isinstance(payload, Enum):
        return payload.encode()
    if isinstance(payload, bytearray | memoryview):
        return bytes(payload)
    if is_pydantic(type(payload)):
        from hexa_worker.codecs.models import encode_pydantic  # noqa: PLC0415 - only where it is used

        return encode_pydantic(payload)
    if is_protobuf(type(payload)):
        from hexa_worker.codecs.protobuf import encode_protobuf  # noqa: PLC0415 - only where it is used

        return encode_protobuf(payload)
    encoded = _encode_json(payload)
    if b"null" in encoded:
        require_finite(payload)
    return encoded


def _other(value: Any) -> Any:
    """JSON for what msgspec does not know by itself: models inside of plain data."""
    if is_pydantic(type(value)) or is_protobuf(type(value)):
        return msgspec.Raw(encode(value))
    raise TypeError(f"nobody knows how to write a {type(value).__qualname__}")


_encode_json = msgspec.json.Encoder(enc_hook=_other).encode

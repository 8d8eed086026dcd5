"""Decoders: chosen once per subscription from the handler's annotation, then called once per delivery.

A decoder is a bare C method wherever that is possible, so that no Python frame is paid per message.

What an annotation means does not depend on the codec in two cases: ``bytes`` is the payload as it is and
``str`` is the payload as UTF-8 text, just as `encode` sends them out. Everything else is JSON (or
MessagePack). An annotation that admits None gets None for an empty payload (a Kafka tombstone).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import msgspec
from msgspec import inspect

from hexa_worker.codecs.annotations import bare, is_protobuf, is_pydantic, parts, text_of, without_none
from hexa_worker.errors import ConfigError, DecodeError

Codec = Literal["json", "msgpack", "protobuf", "raw"]
CODECS: tuple[Codec, ...] = get_args(Codec)
Decode = Callable[[bytes], Any]

DECODE_ERRORS: tuple[type[BaseException], ...] = (BaseException,)
"""What bad bytes can raise: the decoders' own errors, RecursionError for a million brackets, and whatever a
model's ``__post_init__`` or validator raises (``sys.exit`` included) when it meets data it did not expect. None of
them is the runtime's, and none mends itself by trying again."""


class Decoder(NamedTuple):
    """How one subscription's payloads are decoded.

    Attributes:
        decode: payload bytes to payload.
        errors: what it raises for bytes that are not what was asked for.
    """

    decode: Decode
    errors: tuple[type[BaseException], ...] = DECODE_ERRORS


_MARKS = {
    b"\xef\xbb\xbf": "it begins with a byte order mark (EF BB BF), which JSON has none of: write UTF-8 without one",
    b"\xff\xfe": "it begins as UTF-16 does (FF FE): write UTF-8",
    b"\xfe\xff": "it begins as UTF-16 does (FE FF): write UTF-8",
}


def explained(payload: bytes, error: BaseException) -> BaseException:
    """What a decoder raised, or in its place what nobody sees in an editor."""
    for mark, text in _MARKS.items():
        if payload.startswith(mark):
            return DecodeError(text)
    return error


def make_decoder(annotation: Any, codec: Codec = "json") -> Decoder:
    """The decoder for an annotation.

    Args:
        annotation: what the handler asks for; ``Any`` when it does not say.
        codec: how payloads are written.

    Raises:
        ConfigError: nobody can decode that.
    """
    inner, admits_none = without_none(annotation)
    decode = _plain(inner) or _of_codec(inner if inner is not annotation and _is_whole(inner) else annotation, codec)
    if not admits_none:
        return Decoder(decode)
    return Decoder(lambda payload: decode(payload) if payload else None)


def _is_whole(inner: Any) -> bool:
    """Whether one class decodes it, so that None beside it must be taken out first."""
    return is_protobuf(bare(inner))


def _plain(annotation: Any) -> Decode | None:
    """The decoder of bytes and str; None for anything else."""
    inner = bare(annotation)
    if inner is bytes:
        return bytes  # hands back the very object it is given
    if inner is bytearray:
        return bytearray
    if inner is memoryview:
        return memoryview
    if inner is not str:
        return None
    if inner is annotation:
        return bytes.decode
    return lambda payload: msgspec.convert(payload.decode(), annotation)  # Annotated[str, Meta(…)], NewType


def _of_codec(annotation: Any, codec: Codec) -> Decode:
    if codec == "raw":
        if annotation is Any:
            return bytes
        raise ConfigError(
            f'codec "raw" hands over bytes or str, not {text_of(annotation)}',
            hint="annotate the payload as bytes or str",
        )
    if is_protobuf(bare(annotation)):
        from hexa_worker.codecs.protobuf import protobuf_decoder  # noqa: PLC0415 - only where it is used

        return protobuf_decoder(bare(annotation), codec)
    if codec == "protobuf":
        raise ConfigError(f'codec "protobuf" needs a protobuf message, not {text_of(annotation)}')
    if any(is_pydantic(one) for one in parts(annotation)):
        from hexa_worker.codecs.models import pydantic_decoder  # noqa: PLC0415 - only where it is used

        return pydantic_decoder(annotation, codec)
    return _of_msgspec(annotation, codec)


def _of_msgspec(annotation: Any, codec: Codec) -> Decode:
    if bare(annotation) is object:
        annotation = Any
    try:
        stranger = _stranger(inspect.type_info(annotation), set())
        if stranger is None:
            maker = msgspec.json.Decoder if codec == "json" else msgspec.msgpack.Decoder
            return maker(annotation).decode
    except Exception as error:  # msgspec refuses with TypeError, an annotation that cannot be evaluated with anything
        raise ConfigError(f"{text_of(annotation)} cannot be decoded: {error}", hint=_ALLOWED) from error
    raise ConfigError(f"{text_of(annotation)} cannot be decoded: nobody knows how to make a {stranger}", hint=_ALLOWED)


_ALLOWED = (
    "use a msgspec Struct, dataclass, attrs class, TypedDict, NamedTuple, pydantic model, protobuf message, "
    "dict, list, str, bytes, int, float, bool, or a union of them"
)


def _stranger(type_: inspect.Type, seen: set[Any]) -> str | None:
    """The name of a class inside a type that msgspec cannot make by itself, or None."""
    if isinstance(type_, inspect.CustomType):
        return text_of(type_.cls)
    if isinstance(type_, inspect.ExtType | inspect.RawType):
        return None
    if id(type_) in seen:
        return None
    seen.add(id(type_))  # types refer to themselves
    for inner in _inside(type_):
        name = _stranger(inner, seen)
        if name is not None:
            return name
    return None


def _inside(type_: inspect.Type) -> list[inspect.Type]:
    """The types directly inside a type."""
    found: list[Any] = [getattr(type_, name, None) for name in ("type", "item_type", "key_type", "value_type")]
    found.extend(getattr(type_, "types", ()))
    found.extend(getattr(type_, "item_types", ()))
    found.extend(field.type for field in getattr(type_, "fields", ()))
    return [one for one in found if isinstance(one, inspect.Type)]

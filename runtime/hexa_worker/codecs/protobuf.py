"""protobuf messages; imported only when a handler uses one.

Codec ``json`` reads protobuf-JSON (hexa-event's encoding), unknown fields accepted; ``protobuf`` the binary form.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from hexa_worker.errors import ConfigError, DecodeError


def protobuf_decoder(cls: type[Message], codec: str) -> Callable[[bytes], Any]:
    """The decoder of a message class.

    Raises:
        ConfigError: messages cannot be read from `codec`.
    """
    if codec == "protobuf":
        return cls.FromString
    if codec == "json":
        return lambda payload: _parsed(payload, cls())
    raise ConfigError(f'codec "{codec}" does not carry protobuf messages', hint='use codec "protobuf" or "json"')


def _parsed(payload: bytes, message: Message) -> Message:
    """The message out of protobuf-JSON. What does not fit is told without its value, which protobuf shows."""
    try:
        return json_format.Parse(payload, message, ignore_unknown_fields=True)
    except json_format.ParseError as error:
        text = str(error)
        raise DecodeError(text if text.startswith("Failed to load JSON") else text.partition(":")[0]) from None


def encode_protobuf(message: Message) -> bytes:
    """A message as protobuf-JSON on one line."""
    return json_format.MessageToJson(message, indent=None).encode()

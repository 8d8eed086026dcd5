"""Payloads of one subscription in two codecs: JSON from hexa-event services, another one from elsewhere."""

from collections.abc import Callable
from typing import Any

Decode = Callable[[bytes], Any]


def json_or(json: Decode, other: Decode) -> Decode:
    """A decoder that tells JSON text from binary protobuf and MessagePack by its first byte.

    hexa-event says ``_payload_encoder`` for each record, and both its encoders write JSON. A JSON object begins with
    ``{``: in protobuf that is a group of field 15 (no longer written by anybody), in MessagePack the number 123, which
    would be the whole payload. Brackets and quotes are numbers to MessagePack, too, but may be protobuf's: only objects
    are told apart, as hexa-event's payloads are.
    """

    def decode(payload: bytes) -> Any:
        return json(payload) if payload[:1] == b"{" and len(payload) > 1 else other(payload)

    return decode

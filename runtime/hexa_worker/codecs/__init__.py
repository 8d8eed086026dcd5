"""Payload bytes to what a handler's annotation asks for, and what a user emits to payload bytes."""

from hexa_worker.codecs.decode import CODECS, Codec, Decoder, make_decoder
from hexa_worker.codecs.encode import encode

__all__ = ["CODECS", "Codec", "Decoder", "encode", "make_decoder"]

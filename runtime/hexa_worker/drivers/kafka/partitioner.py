"""How a key finds its partition, as other clients do it: services that share a keyed topic must agree."""

from collections.abc import Callable
from functools import lru_cache

from aiokafka.partitioner import murmur2

HashKey = Callable[[bytes, int], int]
"""Key and number of partitions to partition."""

_FNV_OFFSET = 0x811C9DC5
_FNV_PRIME = 0x01000193
_REMEMBERED = 16_384


@lru_cache(_REMEMBERED)
def murmur2_partition(key: bytes, count: int) -> int:
    """As Java's default partitioner, librdkafka's ``murmur2`` and aiokafka."""
    return int(murmur2(key) & 0x7FFF_FFFF) % count


@lru_cache(_REMEMBERED)
def fnv1a_partition(key: bytes, count: int) -> int:
    """As sarama's hash partitioner: 32-bit FNV-1a as a signed number, its remainder made positive."""
    hashed = _FNV_OFFSET
    for byte in key:
        hashed = ((hashed ^ byte) * _FNV_PRIME) & 0xFFFF_FFFF
    signed = hashed - 0x1_0000_0000 if hashed & 0x8000_0000 else hashed
    return abs(signed) % count  # Go's remainder has the sign of the dividend; sarama then drops the sign


PARTITIONERS: dict[str, HashKey] = {"murmur2": murmur2_partition, "fnv1a": fnv1a_partition}

"""Leases: which process reads a channel whose order must hold.

A lease is a register, written on condition: of two writers one fails. Whoever sees it unchanged for its whole length
may take it: that needs no clocks that agree. How long it stood before is asked of the server, where it can tell:
processes that are restarted again and again would otherwise never have waited long enough.
"""

import msgspec

from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.handover import NOTHING, SettledAhead, WaitingRetry
from hexa_worker.drivers.nats.registers import Register


class ChannelLease(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease says.

    Attributes:
        owner: whose it is; empty: nobody's.
        term: counts owners; the consumer of each term has a name of its own, so that nobody can settle for another.
        floor: everything up to this sequence is settled, as far as was known when this was written.
        born: when the stream was made: sequences of one that was made anew mean something else.
        done: what is settled beyond the floor, as the last orderly stop left it.
        waiting: what waits for a retry in its place, by sequence.
    """

    owner: str
    term: int
    floor: int
    born: str = ""
    done: SettledAhead = NOTHING
    waiting: dict[int, WaitingRetry] = {}


def lease_of(connection: NatsConnection, stream: str, durable: str) -> Register[ChannelLease]:
    """The lease of one consumer, whose name is without a term."""
    return Register(connection, f"{stream}.{durable}", ChannelLease)

"""The brokers of the chaos run: how a worker is told of each, and what each is allowed to repeat.

What is allowed stands in docs/drivers.md; here it is put in numbers, for the judge.
"""

from dataclasses import dataclass

from tests.lab.base import Broker

SESSION_S = 4.0
ACK_WAIT_S = 5.0
PULSAR_FORGETS_S = 60.0
NATS_FORGETS_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One kind of broker.

    Attributes:
        table: its table in worker.toml.
        broker: the process of the lab; None: the broker is a file.
        restart_s: about how long it takes to start.
        redelivery_s: how long it keeps what a dead process had in hand.
        forgets_s: acknowledgements so old are forgotten when it is killed.
        lingers_s: claims may be lost so long after it was away.
        republishes: storing a record and acknowledging its original are two steps.
        keeps_retries: records stay in retry channels when they are done, so finding one there means nothing.
        uncommitted_s: what a process settled within so long is repeated when it is killed.
        steady: the run has a subscription whose retries wait in their place.
    """

    table: str
    broker: Broker | None = None
    restart_s: float = 0.0
    redelivery_s: float = 0.0
    forgets_s: float = 0.0
    lingers_s: float = 0.0
    republishes: bool = True
    keeps_retries: bool = False
    uncommitted_s: float = 0.0
    steady: bool = False


def embedded(durability: str = "normal") -> Stage:
    """The embedded broker: one file, one transaction."""
    table = f'driver = "embedded"\npath = "var/hexa.db"\ndurability = "{durability}"'
    return Stage(table=table, republishes=False, steady=True)


def stage_of(broker: Broker) -> Stage:
    """The stage of one of the lab's brokers, reached through its proxy."""
    return {"kafka": _kafka, "nats": _nats, "pulsar": _pulsar}[str(broker).rstrip("0123456789")](broker)


def _kafka(broker: Broker) -> Stage:
    table = f"""driver = "kafka"
servers = ["{broker.proxied_address}"]
create_channels = true
session_timeout_s = {SESSION_S}
heartbeat_s = 0.4
rebalance_timeout_s = 4.0
timeout_s = 5.0"""
    # The dead keep their place for a session; what others had in hand when they were thrown out comes again.
    return Stage(
        table=table,
        broker=broker,
        restart_s=5.0,
        redelivery_s=SESSION_S + 0.4,
        lingers_s=SESSION_S + 1.0,
        steady=True,
        keeps_retries=True,
        uncommitted_s=1.0,
    )


def _nats(broker: Broker) -> Stage:
    table = f"""driver = "nats"
servers = ["{broker.proxied_address}"]
ack_wait_s = {ACK_WAIT_S}
timeout_s = 3.0
create_emitted_channels = true"""
    return Stage(
        table=table,
        broker=broker,
        restart_s=0.5,
        redelivery_s=ACK_WAIT_S,
        forgets_s=NATS_FORGETS_S,
        lingers_s=ACK_WAIT_S,
        steady=True,
    )


def _pulsar(broker: Broker) -> Stage:
    table = f"""driver = "pulsar"
url = "{broker.proxied_address}"
admin_url = "{broker.admin_address}"
listener_name = "proxied"
delay_tick_s = 0.1
timeout_s = 5.0"""
    return Stage(
        table=table,
        broker=broker,
        restart_s=7.0,
        redelivery_s=1.0,
        forgets_s=PULSAR_FORGETS_S,
        lingers_s=5.0,
        keeps_retries=True,
        uncommitted_s=0.5,
    )

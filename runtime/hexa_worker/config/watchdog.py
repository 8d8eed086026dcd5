"""How long a process's event loop may be silent before it is killed.

A broker gives the work of a silent process to others; a process whose loop is blocked must be killed before that, or
nobody would know which delivery was to blame when it comes again.
"""

from typing import Final

from hexa_worker.config.kafka import Kafka
from hexa_worker.config.model import Embedded, File
from hexa_worker.config.nats import Nats, NatsSubscription

LONGEST_S: Final = 30.0
SHARE: Final = 0.7
"""Of what the broker allows: the process has to be found silent, asked where it is, and killed."""


def allowed_s(file: File) -> tuple[float, str] | None:
    """How long the broker lets a process be silent, and the key that says so; None: for ever.

    Pulsar's client speaks to its broker from threads of its own.
    """
    broker = file.broker
    match broker:
        case Kafka():
            return broker.session_timeout_s, "broker.session_timeout_s"
        case Embedded():
            return broker.lease_s, "broker.lease_s"
        case Nats():
            found = [(broker.ack_wait_s, "broker.ack_wait_s")]
            for action, one in file.subscriptions.items():
                if isinstance(one.nats, NatsSubscription) and one.nats.ack_wait_s is not None:
                    found.append((one.nats.ack_wait_s, f"subscriptions.{action}.nats.ack_wait_s"))
            return min(found)
        case _:
            return None


def watchdog_s(file: File) -> tuple[float, str]:
    """The seconds that count, and a warning when worker.toml asks for more than its broker allows."""
    asked, allowed = file.worker.watchdog_s, allowed_s(file)
    if allowed is None:
        return asked or LONGEST_S, ""
    most = allowed[0] * SHARE
    if asked is None or asked <= most:
        return min(asked or LONGEST_S, most), ""
    text = f"watchdog_s = {asked:g} is too long for {allowed[1]} = {allowed[0]:g}: {most:g} s count"
    return most, f"{text} (a process that is silent for longer loses its deliveries without being known as the reason)"

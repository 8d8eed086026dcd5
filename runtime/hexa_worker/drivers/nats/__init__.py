"""The nats driver, on nats-py and JetStream."""

from hexa_worker.drivers.nats.driver import capabilities
from hexa_worker.drivers.nats.entry import CAPABILITIES, NatsDriver

__all__ = ["CAPABILITIES", "NatsDriver", "capabilities"]

"""The pulsar driver, on pulsar-client's synchronous interface in threads of its own."""

from hexa_worker.drivers.pulsar.driver import PulsarDriver, capabilities

__all__ = ["PulsarDriver", "capabilities"]

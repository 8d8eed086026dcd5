"""The kafka driver, on aiokafka."""

from hexa_worker.drivers.kafka.driver import capabilities
from hexa_worker.drivers.kafka.entry import CAPABILITIES, KafkaDriver

__all__ = ["CAPABILITIES", "KafkaDriver", "capabilities"]

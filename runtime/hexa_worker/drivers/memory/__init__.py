"""The memory driver: a broker inside the process, deterministic, in whatever time its clock tells.

A `MemoryStore` is the broker; each `MemoryDriver` on it stands for one process. A channel is a list; a group
has a position in each of its channels and reads on in order. Groups that keep order deal their deliveries
onto stripes, and a stripe is in the hands of one driver at a time.
"""

from hexa_worker.drivers.memory.driver import CAPABILITIES, MemoryDriver
from hexa_worker.drivers.memory.source import MemorySource
from hexa_worker.drivers.memory.store import MemoryStore

__all__ = ["CAPABILITIES", "MemoryDriver", "MemorySource", "MemoryStore"]

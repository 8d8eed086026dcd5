"""The embedded broker: one SQLite file, shared by the processes of one machine."""

from hexa_worker.drivers.embedded.driver import CAPABILITIES, EmbeddedDriver

__all__ = ["CAPABILITIES", "EmbeddedDriver"]

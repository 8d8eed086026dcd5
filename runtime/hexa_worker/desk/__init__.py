"""The dead-letter desk: look at dead letters, change them, send them round again, throw them away."""

from hexa_worker.desk.editing import Draft

__all__ = ["Draft"]

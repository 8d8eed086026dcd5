"""The dead-letter desk: look at dead letters, change them, send them round again, throw them away."""

from hexa_worker.dead_letters.editing import Draft

__all__ = ["Draft"]

"""Dead letters: list, change, redrive, purge, export and import them."""

from hexa_worker.dead_letters.editing import Draft

__all__ = ["Draft"]

"""The outbox: events that are written in a transaction of the service's own database, and sent later.

A service writes its rows and its events in one transaction, so that both are there or neither is. A relay sends the
events to the broker exactly as they were prepared, in the order of their keys.
"""

from hexa_worker.outbox.outbox import Outbox

__all__ = ["Outbox"]

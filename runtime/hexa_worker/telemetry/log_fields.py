"""What names the delivery that a log line is about, for loggers and formatters of an application's own."""

import logging
from collections.abc import Mapping
from typing import Final

from hexa_worker.telemetry.log import FIELDS, IN_HAND

NAMES: Final = ("action", "channel", "message_id", "event_id", "root_id", "correlation_id", "attempt")


def log_fields() -> Mapping[str, object]:
    """What names the delivery whose handler runs here: action, channel, message id, ids, attempt.

    Of a batch its action, and how many deliveries are in hand. Empty outside of a handler, and in tasks that may
    outlive it (those of `asyncio.create_task`). For structlog, Sentry and whatever else has tags.
    """
    told = IN_HAND.get()
    return {} if told is None else told()


class DeliveryFilter(logging.Filter):
    """Adds `log_fields` to each record as attributes, None where there are none, so that a format may name them.

    For the handlers of an application's own logging configuration: ``"%(message)s event=%(event_id)s"``. What a record
    has already, from its ``extra=``, stays.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        said = record.__dict__
        own = said.get(FIELDS)
        fields = own if isinstance(own, Mapping) else log_fields()
        for name in (*NAMES, *[name for name in fields if name not in NAMES]):
            if name not in said:
                said[name] = fields.get(name)
        return True

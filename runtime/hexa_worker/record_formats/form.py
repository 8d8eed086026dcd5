"""Which form records have in a broker."""

from typing import Literal

import msgspec

Wire = Literal["plain", "hexa", "cloudevents", "cloudevents-structured"]
"""``plain``: our own readable headers; ``hexa``: Go's hexa-event; CloudEvents 1.0 in binary or structured mode."""


class Form(msgspec.Struct, frozen=True):
    """A wire format on one kind of broker.

    Attributes:
        wire: the format.
        driver: whose broker; Go's form and the CloudEvents bindings differ between brokers.
        source: CloudEvents ``source`` of what we emit: a URI reference, for instance the worker's name.
        group: the group of the subscription whose records these are; empty for other channels.
    """

    wire: Wire = "plain"
    driver: str = "kafka"
    source: str = "hexa-worker"
    group: str = ""

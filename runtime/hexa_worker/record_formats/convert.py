"""The two ways between the runtime's own form of a record and the one in a broker."""

from typing import TypeVar

from hexa_worker.core.message import Delivery, Message
from hexa_worker.record_formats import binary, hexa, structured
from hexa_worker.record_formats.form import Form

M = TypeVar("M", bound=Message)


def to_wire(message: M, form: Form) -> M:
    """A record of the runtime as others expect it; never raises, whatever its bytes are."""
    if form.wire == "plain":
        return message
    if form.wire == "hexa":
        return hexa.encode(message, enveloped=form.driver in hexa.ENVELOPED, group=form.group)
    event = binary.complete(message, form.source, keyed=form.driver != "kafka")
    if event is message:
        return message
    if form.wire == "cloudevents-structured":
        return structured.encode(event)
    return binary.to_nats(event) if form.driver == "nats" else event


def from_wire(delivery: Delivery, form: Form, *, ladder: bool | None = None) -> Delivery:
    """A record that somebody wrote, as the runtime reads it; never raises, whatever its bytes are.

    Args:
        delivery: as the driver read it.
        form: what is expected; a record that is not in that form stays as it is.
        ladder: it was read from a retry or dead-letter channel, where ids are believed; None: as its attempt says.
    """
    if form.wire == "plain":
        return delivery
    believed = delivery.attempt > 0 if ladder is None else ladder
    if form.wire == "hexa":
        return hexa.decode(delivery, enveloped=form.driver in hexa.ENVELOPED, ladder=believed)
    nats = form.driver == "nats"
    opened = structured.decode(delivery, bare=nats)
    if opened is delivery and nats:
        opened = binary.from_nats(delivery)
    return binary.understood(opened)

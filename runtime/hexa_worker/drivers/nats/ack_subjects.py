"""Reply subjects of deliveries: what they say, and frames that settle them."""

PARTS = 9
"""Of a reply subject: $JS.ACK.stream.consumer.delivered.stream-sequence.consumer-sequence.time.pending."""


def stored_at(reply: bytes) -> bytes:
    """When the message was stored, in nanoseconds since 1970."""
    parts = reply.split(b".")
    return parts[7 if len(parts) == PARTS else 9]


def ack_frames(replies: list[bytes], verb: bytes = b"+ACK") -> bytes:
    """One piece of wire that publishes `verb` to each reply subject."""
    tail = b" %d\r\n%s\r\n" % (len(verb), verb)
    return b"PUB " + (tail + b"PUB ").join(replies) + tail

"""Reply subjects of deliveries: what they say, and frames that settle them."""

PARTS = 9
"""$JS.ACK.stream.consumer.delivered.stream-sequence.consumer-sequence.time.pending."""
STREAM, CONSUMER, DELIVERED, SEQUENCE, NUMBER, STORED = range(2, 8)
"""Places in what `parts_of` returns; a consumer counts its deliveries by `NUMBER`."""


def parts_of(reply: bytes) -> list[bytes]:
    """What a reply subject says, by place; newer servers write domain and account before the stream."""
    parts = reply.split(b".")
    if len(parts) != PARTS:
        del parts[2:4]
    return parts


def stored_at(reply: bytes) -> bytes:
    """When the message was stored, in nanoseconds since 1970."""
    return parts_of(reply)[STORED]


def ack_frames(replies: list[bytes], verb: bytes = b"+ACK") -> bytes:
    """One piece of wire that publishes `verb` to each reply subject."""
    tail = b" %d\r\n%s\r\n" % (len(verb), verb)
    return b"PUB " + (tail + b"PUB ").join(replies) + tail

"""A pull consumer: one durable of one channel (or of a retry ladder), as one process sees it.

It keeps pulls outstanding, turns frames into deliveries, knows what is in hand and whether the claims on it hold.
A delivery's number is its stream sequence; the reply subject that settles it may change while it is in hand: the
server sends a copy after a restart or a silence, and the copy's reply subject replaces the older one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic

import msgspec

from hexa_worker.clock import Clock
from hexa_worker.core.message import Delivery, Headers
from hexa_worker.drivers.nats.ack_subjects import (
    CONSUMER,
    DELIVERED,
    NUMBER,
    SEQUENCE,
    STORED,
    ack_frames,
    parts_of,
    stored_at,
)
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.early_retries import EarlyRetries
from hexa_worker.drivers.nats.handover import NOTHING, HandedOver, SettledAhead, WaitingRetry, note_of
from hexa_worker.drivers.nats.headers import Decoded
from hexa_worker.drivers.nats.protocol import Frame, SubjectSubscription, status_of
from hexa_worker.drivers.nats.pull_window import PullWindow
from hexa_worker.drivers.nats.requests import REFUSED
from hexa_worker.errors import DriverRejected

SETTLED_KEPT = 20_000
LONGEST_NAK_MS = 3_600_000
"""Whatever a record says; when it comes again it is looked at again."""
MARKER = b"\r\nNats-Marker-Reason:"
"""What servers leave where a message was, on streams that ask for it (``subject_delete_marker_ttl``, 2.11)."""
_NO_HEADERS: Headers = ()

log = logging.getLogger("hexa_worker.drivers.nats")


_PASSING = frozenset({"server shutdown", "leadership change"})
"""Of a rolling restart: what was asked for is asked again, of whoever answers then."""


class Token(msgspec.Struct, frozen=True):
    """A delivery's handle.

    Attributes:
        pull_consumer: number of its pull_consumer in its source.
        delivered: how often the server has delivered it, this time included.
        epoch: counts how often sequences have lost their meaning, see `PullConsumer.reset`.
    """

    pull_consumer: int
    delivered: int
    epoch: int


class PullConsumer:
    """One durable consumer.

    Args:
        number: its place in its source.
        connection: the way to the server.
        stream: what it reads.
        durable: its name.
        channel: the channel it reads; None for a retry ladder, whose subjects say it.
        born: when its stream was made.
        ack_wait_s: how long a claim holds without renewal.
        clock: the clocks.
        arrived: called when there may be something to take or to do.
        exclusive: nobody else reads the channel, so its order holds; paused until `resume`.
        epoch: the first one, see `Token`: later than all of whoever had the number before.
    """

    def __init__(  # noqa: PLR0913 - what makes up a consumer
        self,
        number: int,
        connection: NatsConnection,
        stream: str,
        durable: str,
        channel: str | None,
        born: str,
        ack_wait_s: float,
        clock: Clock,
        arrived: Callable[[], None],
        *,
        exclusive: bool = False,
        epoch: int = 0,
    ) -> None:
        self.number = number
        self.stream = stream
        self.durable = durable
        self.channel = channel
        self.ack_wait_s = ack_wait_s
        self.exclusive = exclusive
        self.paused = exclusive
        self.born = born
        self.missing = False
        self.gone = False
        self.unsure = False
        self.progressed = False
        self.rewind_event = asyncio.Event()
        self.buffer: deque[Delivery] = deque()
        self.held: dict[int, bytes] = {}
        self.lost: set[int] = set()
        self.settled: dict[int, bytes] = {}
        self.handed_over = HandedOver(NOTHING)
        self.waiting: dict[int, WaitingRetry] = {}
        self.postponed = 0
        self.delayed = EarlyRetries(clock)
        self.renewed_at = monotonic()
        self.window = PullWindow(monotonic())
        self._connection = connection
        self._arrived = arrived
        self.epoch = epoch
        self._tokens: dict[int, Token] = {}
        self._first = self._token(1)
        self._said: set[str] = set()  # of what servers say of pulls, each once
        self._top = 0
        self._floor = 0
        self._inbox: SubjectSubscription = connection.subscribe(self._deliver)
        self._next_number = 1

    def _token(self, delivered: int) -> Token:
        token = self._tokens.get(delivered)
        if token is None:
            token = self._tokens[delivered] = Token(self.number, delivered, self.epoch)
        return token

    # -- asking for more

    def pull(self, count: int) -> None:
        """Ask the server for `count` more."""
        number, body = self.window.pull(count, monotonic())
        reply = b"%s.%d" % (self._inbox.inbox.encode(), number)
        self._connection.write(b"PUB %s %s %d\r\n%s\r\n" % (self._request, reply, len(body), body))

    @property
    def _request(self) -> bytes:
        return f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.durable}".encode()

    # -- what comes

    def _deliver(self, frames: list[Frame]) -> None:
        """Frames of one read of the socket."""
        now = monotonic()
        self.window.heard(now)
        self.expire()
        made: list[Delivery] = []
        again: list[bytes] = []
        came, epoch = 0, self.epoch
        for frame in frames:
            reply = frame[1]
            if not reply:
                self._status(frame[0], frame[2])
                continue
            came += 1
            parts = parts_of(reply)
            sequence = int(parts[SEQUENCE])
            if self._is_new(sequence, parts, frame, again):
                delivery = self._delivery(sequence, parts, frame)
                if delivery is not None:
                    self.held[sequence] = reply
                    made.append(delivery)
        self.window.came(came)
        if again:
            self._connection.write(ack_frames(again))
        if self.epoch != epoch:
            made = [delivery for delivery in made if delivery.token.epoch == self.epoch]
        if made:
            self.buffer.extend(made)
            self.window.measured(len(made), sum([len(delivery.payload) for delivery in made]), now)
        self._arrived()

    def _is_new(self, sequence: int, parts: list[bytes], frame: Frame, again: list[bytes]) -> bool:
        """Whether a message is to be handled here; `again` gets what is to be acknowledged at once."""
        _, reply, block, payload = frame
        if self.exclusive:
            if not self._in_order(parts, sequence, parts[DELIVERED]):
                return False
            if self.handed_over and sequence in self.handed_over and self._done_by_others(sequence, reply, again):
                return False
        if sequence > self._top:
            self._top = sequence
        elif self._known(sequence, reply, again):  # a server that died may have forgotten that it delivered it
            return False
        if block is not None and not payload and MARKER in block:
            self.settled[sequence] = reply  # says that a message went by its age or was deleted; no event
            again.append(reply)
            return False
        return True

    def _delivery(self, sequence: int, parts: list[bytes], frame: Frame) -> Delivery | None:
        """A message as the worker gets it; None: it is a retry that is not due, and was sent back."""
        subject, reply, block, payload = frame
        stored_ms = int(parts[STORED]) // 1_000_000
        key, headers, due_ms, timestamp_ms, attempt = None, _NO_HEADERS, 0, 0, 0
        decoded = None if block is None else Decoded(block)
        if decoded is not None:
            key, headers = decoded.key, decoded.headers
            due_ms, timestamp_ms = decoded.due_ms, decoded.timestamp_ms
        place = self.channel
        if place is None:
            place = subject.decode(errors="replace")
            attempt = _attempt(place)
            if decoded is not None and due_ms and self._early(sequence, due_ms, decoded.written_ms(stored_ms), reply):
                return None
        elif self.waiting:
            attempt, due_ms = self._waits(sequence, parts[STORED], due_ms)
        delivered = parts[DELIVERED]
        return Delivery(
            channel=place,
            payload=payload,
            key=key,
            headers=headers,
            timestamp_ms=timestamp_ms or stored_ms,
            due_ms=due_ms,
            source=self.stream,
            offset=sequence,
            attempt=attempt,
            token=self._first if delivered == b"1" else self._token(int(delivered)),
        )

    def _known(self, sequence: int, reply: bytes, again: list[bytes]) -> bool:
        """Whether a copy is of something that is in hand, or done; it is not run again then."""
        before = self.held.get(sequence) or self.settled.get(sequence)
        if before is None:
            return False
        if stored_at(before) != stored_at(reply):  # the stream was made anew, and this is another message
            self.reset()
            return False
        if sequence in self.held:
            self.held[sequence] = reply
            self.lost.discard(sequence)
        else:
            again.append(reply)
        return True

    def _done_by_others(self, sequence: int, reply: bytes, again: list[bytes]) -> bool:
        """Whether a message was settled by an earlier owner, according to the note; it is not run again then."""
        if not self.handed_over.holds_for(reply):  # the stream gave the sequence to another message: the note is void
            self.handed_over = HandedOver(NOTHING)
            return False
        self.held.pop(sequence, None)
        self.lost.discard(sequence)
        self.settled[sequence] = reply
        again.append(reply)
        return True

    def _in_order(self, parts: list[bytes], sequence: int, delivered: bytes) -> bool:
        """Whether a frame of an exclusive consumer may be looked at: it is of this term, and nothing is missing."""
        if self.paused or parts[CONSUMER].decode() != self.durable:
            return False
        number = int(parts[NUMBER])
        missed = number != self._next_number
        late = delivered != b"1" and sequence not in self.held and sequence not in self.settled
        if missed or late:
            self.want_rewind()
            return False
        self._next_number = number + 1
        return True

    def _waits(self, sequence: int, stored: bytes, due_ms: int) -> tuple[int, int]:
        """Attempt and time of what may have waited for a retry in its place before."""
        one = self.waiting.get(sequence)
        return (0, due_ms) if one is None or one.stored != int(stored) else (one.attempt, one.due_ms)

    def _early(self, sequence: int, due_ms: int, written_ms: int, reply: bytes) -> bool:
        """Send back what is not due yet; whoever gets it again looks again."""
        wait_ms = self.delayed.left_ms(sequence, due_ms, written_ms)
        if not wait_ms:
            return False
        body = b'-NAK {"delay":%d}' % (min(wait_ms, LONGEST_NAK_MS) * 1_000_000)
        self._connection.write(b"PUB %s %d\r\n%s\r\n" % (reply, len(body), body))
        return True

    def _status(self, subject: bytes, block: bytes | None) -> None:
        code, text = status_of(block)
        if code == 100:  # noqa: PLR2004 - a heartbeat
            return
        self.window.ended(int(subject.rpartition(b".")[2]))
        if code == 503 or (code == 409 and "deleted" in text.lower()):  # noqa: PLR2004 - no such consumer
            self.missing = True
        elif code in {404, 408} or (code == 409 and text.lower() in _PASSING):  # noqa: PLR2004
            log.debug("pull from %s of stream %s: %d %s", self.durable, self.stream, code, text)
        elif text not in self._said:
            self._said.add(text)
            log.warning("pull from %s of stream %s: %d %s", self.durable, self.stream, code, text)

    # -- claims

    @property
    def claims_hold(self) -> bool:
        """Whether what is in hand is certainly still ours."""
        return monotonic() - self.renewed_at < self.ack_wait_s * 0.9

    def expire(self) -> None:
        """Nobody knows whose the deliveries in hand are, if the claims were not renewed in time."""
        if self.claims_hold:
            return
        if self.exclusive:
            if self.held:
                self.want_rewind()  # no copies would come by themselves
        else:
            self.lost.update(self.held)
            self.renewed_at = monotonic()  # of what is left, nothing, this is true

    async def renew(self) -> None:
        """Renew all claims and wait until the server has said so. Raises DriverUnavailable, DriverRejected."""
        self.expire()
        sent_at = monotonic()
        replies = [reply for sequence, reply in self.held.items() if sequence not in self.lost]
        if replies:
            await self.confirm(replies, b"+WPI")
        self.renewed_at = max(self.renewed_at, sent_at)

    async def confirm(self, replies: list[bytes], verb: bytes) -> bool:
        """Send `verb` for each; wait for the answer to the last, which comes after the others took effect.

        Returns:
            Whether the consumer exists.

        Raises:
            DriverUnavailable: no answer.
            DriverRejected: this login may not say it.
        """
        waiting, (inbox,) = self._connection.expect(replies[-1:])
        frames = ack_frames(replies[:-1], verb) if len(replies) > 1 else b""
        last = b"PUB %s %s %d\r\n%s\r\n" % (replies[-1], inbox, len(verb), verb)
        self._connection.write(frames + last)
        await self._connection.gather(waiting)
        frame = waiting.frames[0]
        if frame is REFUSED:
            raise DriverRejected(f"nats: this login may not publish to {replies[-1].rpartition(b'.')[0].decode()!r}")
        gone = frame is not None and status_of(frame[2])[0] == 503  # noqa: PLR2004 - no responders
        if gone:
            self.mark_missing()
        return not gone

    def mark_missing(self) -> None:
        """The server has no such consumer (any more)."""
        self.missing = True
        self._arrived()

    def send(self, replies: list[bytes], verb: bytes) -> None:
        """Send `verb` for each and hope."""
        if replies:
            self._connection.write(ack_frames(replies, verb))

    def made_again(self, born: str) -> None:
        """The consumer was deleted and made again, its stream perhaps too."""
        self.missing = self.unsure = False
        self.window.forget()
        self.is_of(born)
        self.doubt()

    def is_of(self, born: str) -> None:
        """This is when the stream was made, as it is now. The sequences of another one mean other messages."""
        if self.exclusive or born == self.born:
            return  # an exclusive consumer's next term sees to it
        log.info("stream %s is not the one that it was: nothing in hand of the old one is settled", self.stream)
        self.born = born
        self.reset()

    def doubt(self) -> None:
        """Nothing in hand is certain, until copies bring the claims back."""
        if self.exclusive:
            self.want_rewind()
        else:
            self.lost.update(self.held)

    def passed(self, floor: int) -> None:
        """The consumer is settled up to here. A server that is killed forgets the latest of that, so not all goes."""
        kept_from, self._floor = self._floor, floor
        if self.settled:
            self.settled = {sequence: reply for sequence, reply in self.settled.items() if sequence > kept_from}

    def reset(self) -> None:
        """The stream was made anew: sequences mean nothing any more."""
        self.missing = False
        self.epoch += 1
        self._tokens.clear()
        self._first = self._token(1)
        self.window.forget()
        for kept in (self.buffer, self.held, self.lost, self.settled, self.waiting, self.delayed):
            kept.clear()
        self.handed_over = HandedOver(NOTHING)
        self._top = self._floor = 0
        if self.exclusive:
            self.want_rewind()

    # -- terms of an exclusive consumer

    @property
    def rewind_wanted(self) -> bool:
        """It must begin again at the first unsettled message."""
        return self.rewind_event.is_set()

    def want_rewind(self) -> None:
        """Hand out nothing until the consumer was made anew."""
        self.pause()
        self.rewind_event.set()

    def pause(self) -> None:
        """Hand out nothing more; what is in hand may be somebody else's by now."""
        self.paused = True
        self.window.forget()
        for delivery in self.buffer:
            del self.held[delivery.offset]
        self.buffer.clear()
        self.lost.intersection_update(self.held)
        self.lost.update(self.held)

    def resume(self, durable: str) -> None:
        """Read on through another consumer; copies of what is in hand bring the claims back."""
        self.durable = durable
        self._next_number = 1
        self.missing = False
        self.rewind_event.clear()
        self.paused = False
        self._arrived()

    def let_go(self, sequences: Iterable[int], *, done: bool) -> None:
        """These are settled."""
        held, lost, delayed, settled, waiting = self.held, self.lost, self.delayed, self.settled, self.waiting
        self.progressed = self.progressed or done
        for sequence in sequences:
            reply = held.pop(sequence, None)
            if done and reply is not None:
                settled[sequence] = reply
                if waiting:
                    waiting.pop(sequence, None)
            if lost:
                lost.discard(sequence)
            if delayed:
                delayed.forget(sequence)
        excess = len(settled) - SETTLED_KEPT
        if excess > SETTLED_KEPT // 4:
            for sequence in [*settled][:excess]:
                del settled[sequence]

    def postpone(self, again: Delivery) -> None:
        """It stays in hand; should it come again, it is to come as `again`."""
        reply = self.held.get(again.offset)
        if reply is not None:
            self.waiting[again.offset] = WaitingRetry(again.attempt, again.due_ms, int(stored_at(reply)))
            self.postponed += 1

    def note_waiting(self, floor: int) -> dict[int, WaitingRetry]:
        """What waits beyond a floor, for whoever is next."""
        for sequence in [one for one in self.waiting if one <= floor]:
            del self.waiting[sequence]
        return note_of(self.waiting, self._connection.max_payload // 4)

    def hand_over(self, floor: int) -> SettledAhead:
        """What the next owner need not run, beyond a floor."""
        return self.handed_over.with_settled(self.settled, floor, self._connection.max_payload // 2)

    # -- the end

    def begin_pulls(self) -> None:
        """Undo `end_pulls`."""
        self._connection.forget_sink(self._inbox)
        self._inbox = self._connection.subscribe(self._deliver)

    def end_pulls(self) -> None:
        """Take nothing more."""
        self._connection.unsubscribe(self._inbox)
        self.window.forget()

    def hand_back(self) -> None:
        """Give back whatever is in hand."""
        if not self.exclusive and not self.unsure:
            self.send([reply for sequence, reply in self.held.items() if sequence not in self.lost], b"-NAK")
        self._connection.forget_sink(self._inbox)
        self.buffer.clear()
        self.held.clear()
        self.lost.clear()

    def dismiss(self) -> None:
        """Its channel is gone and is not to be made again: read nothing more."""
        self.end_pulls()
        self.reset()
        self.drop()
        self.unsure = False
        self.paused = self.gone = True

    def drop(self) -> None:
        """Forget everything without a word."""
        self._connection.forget_sink(self._inbox)
        self.buffer.clear()
        self.held.clear()


def _attempt(channel: str) -> int:
    """The number of a retry channel; anybody may have published to one that has none."""
    number = channel.rpartition(".")[2]
    return int(number) if number.isdecimal() and len(number) < 10 else 1  # noqa: PLR2004 - far beyond any policy

"""A pull consumer: one durable of one channel (or of a retry ladder), as one process sees it.

It keeps pulls outstanding, takes in what comes of them, and keeps the claims on what is in flight.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from hexa_worker.clock import Clock
from hexa_worker.core.message import Delivery
from hexa_worker.drivers.kit.delay_queue import written_ms
from hexa_worker.drivers.nats.ack_subjects import (
    CONSUMER,
    DELIVERED,
    NUMBER,
    PARTS,
    SEQUENCE,
    ack_frames,
)
from hexa_worker.drivers.nats.connection import NatsConnection
from hexa_worker.drivers.nats.consumers import look
from hexa_worker.drivers.nats.decoding import FrameDecoder, is_marker
from hexa_worker.drivers.nats.early_retries import EarlyRetries
from hexa_worker.drivers.nats.in_flight import Arrival, InFlightMessages
from hexa_worker.drivers.nats.ordered_term import OrderedTerm
from hexa_worker.drivers.nats.protocol import Frame, SubjectSubscription, status_of
from hexa_worker.drivers.nats.pull_window import PullWindow
from hexa_worker.drivers.nats.requests import REFUSED
from hexa_worker.drivers.nats.streams import life_of
from hexa_worker.errors import DriverRejected

LONGEST_NAK_MS = 3_600_000
"""Whatever a record says; when it comes again it is looked at again."""

log = logging.getLogger("hexa_worker.drivers.nats")


_PASSING = frozenset({"server shutdown", "leadership change"})
"""Of a rolling restart: what was asked for is asked again, of whoever answers then."""


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
        epoch: the first one, see `decoding.Token`: later than all of whoever had the number before.
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
        self.rewind_event = asyncio.Event()
        self.buffer: deque[Delivery] = deque()
        self.in_flight = InFlightMessages(epoch)
        self.term = OrderedTerm(self.in_flight)
        self.delayed = EarlyRetries(clock)
        self.renewed_at = monotonic()
        self.window = PullWindow(monotonic())
        self._connection = connection
        self._arrived = arrived
        self._decoder = FrameDecoder(number, stream, channel, epoch)
        self._said: set[str] = set()  # of what servers say of pulls, each once
        self._inbox: SubjectSubscription = connection.subscribe(self._deliver)

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
        epoch = self.in_flight.epoch
        self.window.came(self._take_in(frames, made, again))
        if again:
            self._connection.write(ack_frames(again))
        if self.in_flight.epoch != epoch:
            made = [delivery for delivery in made if delivery.token.epoch == self.in_flight.epoch]
        if made:
            self.buffer.extend(made)
            self.window.measured(len(made), sum([len(delivery.payload) for delivery in made]), now)
        self._arrived()

    def _take_in(self, frames: list[Frame], made: list[Delivery], again: list[bytes]) -> int:
        """Decode what is to be handled here.

        Per message of a shared consumer this is one call: everything rare stands apart.

        Args:
            frames: what has come.
            made: gets the deliveries.
            again: gets what is to be acknowledged at once.

        Returns:
            How many of the frames were messages.
        """
        in_flight, waiting, exclusive, decode = self.in_flight, self.term.waiting, self.exclusive, self._decoder.decode
        held = in_flight.held
        came = 0
        for frame in frames:
            reply = frame[1]
            if not reply:
                self._status(frame[0], frame[2])
                continue
            came += 1
            parts = reply.split(b".")
            if len(parts) != PARTS:
                del parts[2:4]  # domain and account before the stream
            sequence = int(parts[SEQUENCE])
            newest = sequence > in_flight.top
            if (exclusive or not newest or not frame[3]) and not self._is_new(sequence, parts, frame, again):
                continue
            if newest:
                in_flight.top = sequence
            delivery = decode(sequence, parts, frame)
            if delivery.due_ms or waiting:
                timely = self._in_time(delivery, reply)
                if timely is None:
                    continue
                delivery = timely
            held[sequence] = reply  # as `InFlightMessages.came` does, without a call
            made.append(delivery)
        return came

    def _is_new(self, sequence: int, parts: list[bytes], frame: Frame, again: list[bytes]) -> bool:
        """Whether a message is to be handled here; `again` gets what is to be acknowledged at once."""
        reply = frame[1]
        if self.exclusive:
            if self.paused or parts[CONSUMER].decode() != self.durable:
                return False
            if not self.term.follows(sequence, int(parts[NUMBER]), first=parts[DELIVERED] == b"1"):
                self.want_rewind()
                return False
            if self.term.done_by_others(sequence, reply):  # it is not run again
                self.in_flight.settle(sequence, reply)
                again.append(reply)
                return False
        if sequence <= self.in_flight.top and not self._unknown(sequence, reply, again):
            return False  # a server that died may have forgotten that it delivered it
        if is_marker(frame):
            self.in_flight.settle(sequence, reply)
            again.append(reply)
            return False
        return True

    def _unknown(self, sequence: int, reply: bytes, again: list[bytes]) -> bool:
        """Whether a message is no copy of what is in flight, or settled; copies are not run again."""
        arrival = self.in_flight.came(sequence, reply)
        if arrival is Arrival.ANOTHER:
            self.reset()
            arrival = self.in_flight.came(sequence, reply)
        if arrival is Arrival.SETTLED:
            again.append(reply)
        return arrival is Arrival.NEW

    def _in_time(self, delivery: Delivery, reply: bytes) -> Delivery | None:
        """A retry as it is to run; None: it is not due, and was sent back to whoever gets it then."""
        if self.channel is not None:
            return self.term.as_postponed(delivery, reply)
        wait_ms = delivery.due_ms and self.delayed.left_ms(delivery.offset, delivery.due_ms, written_ms(delivery))
        if not wait_ms:
            return delivery
        body = b'-NAK {"delay":%d}' % (min(wait_ms, LONGEST_NAK_MS) * 1_000_000)
        self._connection.write(b"PUB %s %d\r\n%s\r\n" % (reply, len(body), body))
        self.in_flight.forget((delivery.offset,))
        return None

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
            if self.in_flight.held:
                self.want_rewind()  # no copies would come by themselves
        else:
            self.in_flight.doubt()
            self.renewed_at = monotonic()  # of what is left, nothing, this is true

    async def renew(self) -> None:
        """Renew all claims and wait until the server has said so. Raises DriverUnavailable, DriverRejected."""
        self.expire()
        sent_at = monotonic()
        replies = self.in_flight.claimed()
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

    async def be_sure(self) -> None:
        """After a time without connection: see whether the server still knows what the claims are on.

        In another stream of its name they would settle other messages. A server that was killed forgets what it has
        delivered just before: it answers no acknowledgement of that, however often it is asked, but renewals.
        Raises DriverUnavailable, DriverRejected.
        """
        if not self.unsure:
            return
        generation = self._connection.generation
        try:
            life = await life_of(self._connection, self.stream)
        except DriverRejected:
            self.mark_missing()
            self.doubt()
            return
        self.is_of(life.born)
        before = dict(self.in_flight.held)
        if before:
            info = await look(self._connection, self.stream, self.durable)
            if info is None:
                self.mark_missing()
                self.doubt()
                return
            self.in_flight.doubt_beyond(int(info["delivered"]["stream_seq"]), before)
        self.unsure = generation != self._connection.generation

    def doubt(self) -> None:
        """Nothing in hand is certain, until copies bring the claims back."""
        if self.exclusive:
            self.want_rewind()
        else:
            self.in_flight.doubt()

    def reset(self) -> None:
        """The stream was made anew: sequences mean nothing any more."""
        self.missing = False
        self.in_flight.reset()
        self._decoder.begin(self.in_flight.epoch)
        self.window.forget()
        self.buffer.clear()
        self.delayed.clear()
        self.term.forget()
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
        self.in_flight.forget([delivery.offset for delivery in self.buffer])
        self.buffer.clear()
        self.in_flight.doubt()

    def resume(self, durable: str) -> None:
        """Read on through another consumer; copies of what is in hand bring the claims back."""
        self.durable = durable
        self.term.begin()
        self.missing = False
        self.rewind_event.clear()
        self.paused = False
        self._arrived()

    def let_go(self, sequences: Sequence[int], *, done: bool) -> None:
        """These are settled, or released."""
        delayed = self.delayed
        if done and self.term.waiting:
            self.term.settled(sequences)
        if delayed:
            for sequence in sequences:
                delayed.forget(sequence)
        self.in_flight.let_go(sequences, done=done)

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
            self.send(self.in_flight.claimed(), b"-NAK")
        self.drop()

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
        self.in_flight.clear()

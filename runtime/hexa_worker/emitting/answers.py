"""Waiting for answers: a channel that one process reads, and who waits for what comes there.

The channel keeps its progress under its own name, so nothing is left behind by a process that ends, and an answer
that comes while nobody reads is there later (and then nobody waits for it).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from hexa_worker.backoff import Backoff
from hexa_worker.codecs.decode import Decoder
from hexa_worker.core.lineage import CORRELATION_ID, lineage_of
from hexa_worker.core.message import Delivery, header
from hexa_worker.core.settlement import Acked
from hexa_worker.drivers.base import Driver, Source, SubscriptionSpec
from hexa_worker.errors import DecodeError, DriverError, DriverUnavailable, Unanswered

MAX_ANSWERS = 1_000
MAX_ANSWERS_BYTES = 16 * 1024 * 1024
log = logging.getLogger("hexa_worker.emitting")


class Question:
    """One event that an answer is expected to.

    Attributes:
        answered: set when it is, or never will be.
        answer: the answer's payload.
        error: why there will be none.
    """

    __slots__ = ("answer", "answered", "error")

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.answer: bytes | None = None
        self.error: Exception | None = None


class AnswerReader:
    """Reads the answers to the questions of one emitter.

    Args:
        driver: an open driver, once `run` is called.
        channel: read by this process only.
    """

    def __init__(self, driver: Driver, channel: str) -> None:
        self.channel = channel
        self._driver = driver
        self._questions: dict[str, list[Question]] = {}
        self._source: Source | None = None
        self._over: Exception | None = None

    @property
    def spec(self) -> SubscriptionSpec:
        """What it reads."""
        return SubscriptionSpec(
            action=self.channel, group=self.channel, channels=(self.channel,), retry_base=self.channel, retry_count=0
        )

    @contextmanager
    def expecting(self, event_id: str) -> Iterator[Question]:
        """The question that an event is; asked for the length of the block.

        Raises:
            Exception: nothing is read any more.
        """
        if self._over is not None:
            raise self._over
        question = Question()
        same = self._questions.setdefault(event_id, [])
        same.append(question)
        try:
            yield question
        finally:
            same.remove(question)
            if not same:
                self._questions.pop(event_id, None)

    async def run(self) -> None:
        """Read until it is closed. Cancellation: safe."""
        waits = Backoff()
        while self._over is None:
            try:
                self._source = await self._driver.subscribe(self.spec)
                try:
                    await self._read(self._source)
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._source.close()
            except DriverUnavailable as error:
                log.warning("answers cannot be read, trying again: %s", error)
                await waits.wait()
            except DriverError as error:
                log.error("answers cannot be read: %s", error)  # noqa: TRY400 - each request tells it, too
                self._end(error)

    def close(self) -> None:
        """Read no more; whoever waits for an answer hears of it."""
        self._end(DriverUnavailable("the emitter was closed before an answer came"))
        if self._source is not None:
            self._source.stop()

    def _end(self, error: Exception) -> None:
        self._over = self._over or error
        for question in [one for same in self._questions.values() for one in same]:
            question.error = self._over
            question.answered.set()

    async def _read(self, source: Source) -> None:
        while batch := await source.receive(MAX_ANSWERS, MAX_ANSWERS_BYTES):
            for delivery in batch:
                self._hear(delivery)
            with anyio.CancelScope(shield=True):
                await source.settle([Acked(delivery) for delivery in batch])

    def _hear(self, delivery: Delivery) -> None:
        """Hand an answer to who asked: its parent's id is the question's; a Go service says it as correlation id."""
        ids = lineage_of(delivery)
        correlation_id = (header(delivery.headers, CORRELATION_ID) or b"").decode(errors="replace")
        for event_id in (ids.parent_id, ids.root_id, correlation_id):
            if event_id in self._questions:
                for question in self._questions[event_id]:
                    question.answer = question.answer if question.answered.is_set() else delivery.payload
                    question.answered.set()
                return


def read_answer(question: Question, decoder: Decoder, unanswered: str) -> Any:
    """What a question was answered, decoded.

    Raises:
        Unanswered: with this text.
        DecodeError: it is not what was asked for.
        Exception: why there will be no answer.
    """
    if question.answer is None:
        raise question.error or Unanswered(unanswered)
    try:
        return decoder.decode(question.answer)
    except decoder.errors as error:
        raise DecodeError(f"the answer is not what was asked for: {error}") from error

"""Requests by number: who waits for which answer."""

import asyncio
from collections.abc import Sequence
from time import monotonic

from hexa_worker.drivers.nats.protocol import Frame
from hexa_worker.errors import DriverUnavailable

REFUSED: Frame = (b"", b"", b"NATS/1.0 403 Permissions Violation\r\n\r\n", b"")
"""Stands for the answer where the server refuses a request for want of rights."""


class Answers:
    """The answers to a batch of numbered requests, one slot each.

    Attributes:
        done: resolved when all are there; fails with DriverUnavailable when the connection ends.
        frames: the answers so far.
        subjects: where each request goes.
        answered_at: when the latest one came (monotonic).
    """

    __slots__ = ("answered_at", "done", "first", "frames", "left", "subjects")

    def __init__(self, first: int, subjects: Sequence[bytes]) -> None:
        count = len(subjects)
        self.first = first
        self.subjects = subjects
        self.left = count
        self.frames: list[Frame | None] = [None] * count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answered_at = monotonic()

    def put(self, place: int, frame: Frame) -> None:
        """One answer has come."""
        self.frames[place] = frame
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class RequestMux:
    """The requests of one connection that have no answer yet.

    Args:
        patience_s: how long answers may stay away.
        where: the servers, for errors.

    Attributes:
        inbox: prefix of the reply subjects; what arrives below it goes to `deliver`.
    """

    def __init__(self, patience_s: float, where: str) -> None:
        self.inbox = ""
        self._patience_s = patience_s
        self._where = where
        self._waiting: dict[int, Answers] = {}
        self._next_number = 0

    def expect(self, subjects: Sequence[bytes]) -> tuple[Answers, Sequence[bytes]]:
        """Reply subjects for requests to `subjects`, and where their answers gather."""
        first = self._next_number
        self._next_number += len(subjects)
        answers = Answers(first, subjects)
        numbers = range(first, first + len(subjects))
        self._waiting.update(dict.fromkeys(numbers, answers))
        prefix = self.inbox.encode()
        return answers, [b"%s.%d" % (prefix, number) for number in numbers]

    async def gather(self, answers: Answers) -> None:
        """Wait until every answer is there, as long as they keep coming. Raises DriverUnavailable."""
        patience_s = self._patience_s
        try:
            while not answers.done.done():
                left_s = answers.answered_at + patience_s - monotonic()
                if left_s <= 0:
                    raise DriverUnavailable(f"nats at {self._where}: no answer within {patience_s:g} s")
                await asyncio.wait([answers.done], timeout=left_s)
            answers.done.result()
        finally:
            if answers.left:
                for number in range(answers.first, answers.first + len(answers.frames)):
                    self._waiting.pop(number, None)

    def deliver(self, frames: list[Frame]) -> None:
        """Answers have come."""
        waiting, at, now = self._waiting, len(self.inbox) + 1, monotonic()
        for frame in frames:
            number = int(frame[0][at:])
            answers = waiting.pop(number, None)
            if answers is None:
                continue
            answers.answered_at = now
            answers.put(number - answers.first, frame)

    def refuse(self, subject: bytes) -> None:
        """The server takes no request to `subject` from this login: whoever waits for one need not wait longer."""
        for number, answers in tuple(self._waiting.items()):
            if answers.subjects[number - answers.first] == subject:
                del self._waiting[number]
                answers.put(number - answers.first, REFUSED)

    def fail(self, error: DriverUnavailable) -> None:
        """The connection has ended: nobody is answered any more."""
        waiting, self._waiting = self._waiting, {}
        for answers in {id(one): one for one in waiting.values()}.values():
            if not answers.done.done():
                answers.done.set_exception(DriverUnavailable(str(error)))
                answers.done.exception()  # it may be that nobody waits any more

"""What the class of an error means: the most specific class that is named decides."""

import pytest

from hexa_worker.core.classification import ErrorAnswer, Rules, answer_to
from hexa_worker.core.message import Delivery
from hexa_worker.core.outcome import DeadLetter, Drop, Outcome, Raised, Retry, TimedOut, Undecodable
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.core.settlement import Acked, DeadLettered, RetryAt, Route, gives_up, settle
from hexa_worker.errors import DecodeError, DriverRejected

RULES: Rules = {
    ValueError: ErrorAnswer.DEAD_LETTER,
    UnicodeError: ErrorAnswer.RETRY,
    UnicodeDecodeError: ErrorAnswer.DROP,
    KeyError: ErrorAnswer.DROP,
    ConnectionError: ErrorAnswer.RETRY,
}


class Both(ConnectionError, ValueError):
    """Of two classes that are named."""


class OfOurs(ExceptionGroup[Exception]):
    """A group with a class of its own."""


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (ValueError(), ErrorAnswer.DEAD_LETTER),
        (UnicodeDecodeError("utf-8", b"", 0, 1, ""), ErrorAnswer.DROP),
        (UnicodeEncodeError("utf-8", "", 0, 1, ""), ErrorAnswer.RETRY),
        (KeyError(), ErrorAnswer.DROP),
        (LookupError(), None),
        (Both(), ErrorAnswer.RETRY),
        (OSError(), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_the_most_specific_class_decides(error: BaseException, answer: ErrorAnswer | None) -> None:
    assert answer_to(Raised(error), RULES) is answer


@pytest.mark.parametrize(
    ("errors", "answer"),
    [
        ([KeyError(), KeyError()], ErrorAnswer.DROP),
        ([KeyError(), ValueError()], ErrorAnswer.DEAD_LETTER),
        ([KeyError(), ValueError(), ConnectionError()], ErrorAnswer.RETRY),
        ([KeyError(), OSError()], None),
        ([ConnectionError(), OSError()], ErrorAnswer.RETRY),
        ([ValueError(), ExceptionGroup("inner", [KeyError(), OSError()])], None),
        ([ValueError(), ExceptionGroup("inner", [KeyError()])], ErrorAnswer.DEAD_LETTER),
    ],
)
def test_of_a_group_the_careful_answer_holds(errors: list[Exception], answer: ErrorAnswer | None) -> None:
    assert answer_to(Raised(ExceptionGroup("all", errors)), RULES) is answer


def test_a_group_whose_own_class_is_named_goes_by_that() -> None:
    rules: Rules = {**RULES, OfOurs: ErrorAnswer.DROP}
    assert answer_to(Raised(OfOurs("all", [OSError()])), rules) is ErrorAnswer.DROP
    assert answer_to(Raised(OfOurs("all", [ValueError()])), RULES) is ErrorAnswer.DEAD_LETTER
    assert answer_to(Raised(ExceptionGroup("all", [OSError()])), {Exception: ErrorAnswer.DROP}) is ErrorAnswer.DROP


def settled(outcome: Outcome, rules: Rules) -> type:
    delivery = Delivery(channel="in", payload=b"", source="in-0", offset=0)
    route = Route(action="act", retry_base="act", policy=RetryPolicy(), rules=rules)
    settlement = settle(outcome, delivery, route, now_ms=1)
    assert gives_up(outcome, delivery, route) is isinstance(settlement, DeadLettered)
    return type(settlement)


@pytest.mark.parametrize(
    ("outcome", "rules", "kind"),
    [
        (Raised(ValueError()), RULES, DeadLettered),
        (Raised(KeyError()), RULES, Acked),
        (Raised(OSError()), RULES, RetryAt),
        (Raised(DriverRejected("no")), RULES, DeadLettered),
        (Raised(DriverRejected("no")), {DriverRejected: ErrorAnswer.RETRY}, RetryAt),
        (TimedOut(1), RULES, RetryAt),
        (TimedOut(1), {TimeoutError: ErrorAnswer.DEAD_LETTER}, DeadLettered),
        (TimedOut(1), {Exception: ErrorAnswer.DEAD_LETTER, OSError: ErrorAnswer.DROP}, Acked),
        (Undecodable(DecodeError("bad")), {Exception: ErrorAnswer.DROP}, DeadLettered),
        (Retry(), {Exception: ErrorAnswer.DROP}, RetryAt),
        (DeadLetter(), {Exception: ErrorAnswer.DROP}, DeadLettered),
        (Drop(), {Exception: ErrorAnswer.DEAD_LETTER}, Acked),
    ],
)
def test_a_verdict_and_a_payload_that_does_not_fit_are_not_classified(
    outcome: Outcome, rules: Rules, kind: type
) -> None:
    assert settled(outcome, rules) is kind


def test_a_drop_says_which_error_it_was() -> None:
    delivery = Delivery(channel="in", payload=b"", source="in-0", offset=0)
    route = Route(action="act", retry_base="act", policy=RetryPolicy(), rules=RULES)
    settlement = settle(Raised(KeyError("sku")), delivery, route, now_ms=1)
    assert isinstance(settlement, Acked)
    assert settlement.dropped == "KeyError is in drop_on: 'sku'"

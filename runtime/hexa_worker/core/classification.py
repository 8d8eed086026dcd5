"""What the class of an error means to one subscription: retry it, dead-letter it, or drop the delivery.

The most specific class decides: of the error's own classes, in the order in which Python looks up a method, the
first that is named. An error that no rule names is retried, unless no retry can help (`is_hopeless`).
"""

from collections.abc import Mapping
from enum import Enum

from hexa_worker.core.outcome import Outcome, Raised, TimedOut


class ErrorAnswer(Enum):
    """What is done about an error, from what comes first in a group of errors to what comes last."""

    RETRY = "retry_on"
    DEAD_LETTER = "dead_letter_on"
    DROP = "drop_on"


Rules = Mapping[type[BaseException], ErrorAnswer]


def answer_to(outcome: Outcome, rules: Rules) -> ErrorAnswer | None:
    """What `rules` say of a handler's failure; None: nothing. A handler that ran too long raised `TimeoutError`."""
    if isinstance(outcome, Raised):
        return _to_error(outcome.error, rules)
    return _to_class(TimeoutError, rules) if isinstance(outcome, TimedOut) else None


def _to_error(error: BaseException, rules: Rules) -> ErrorAnswer | None:
    """Of a group whose own class is not named: what is in it decides.

    It is dropped only if all in it are, and dead-lettered only if none in it would be retried.
    """
    if not isinstance(error, BaseExceptionGroup):
        return _to_class(type(error), rules)
    named = _to_class(type(error), rules, last=BaseExceptionGroup)
    if named is not None:
        return named
    inside = {_to_error(one, rules) for one in error.exceptions}
    if None in inside:
        return ErrorAnswer.RETRY if ErrorAnswer.RETRY in inside else None
    return next(answer for answer in ErrorAnswer if answer in inside)


def _to_class(cls: type, rules: Rules, last: type = object) -> ErrorAnswer | None:
    for one in cls.__mro__:
        if one in rules:
            return rules[one]
        if one is last:
            return None
    return None

"""Subscriptions that are right one by one and wrong together."""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from hexa_worker.config.pulsar import PulsarSubscription
from hexa_worker.core.channels import dead_letter_channel, retry_channels
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.plan import Plan


def check_clashes(plans: Sequence[Plan]) -> list[ConfigError]:
    """What is wrong between `plans`."""
    found = [error for first, second in combinations(plans, 2) for error in _between(first, second)]
    found.extend(error for plan in plans for error in _reads_retries(plan, plans))
    return found


def _between(first: Plan, second: Plan) -> Iterator[ConfigError]:
    if first.shared is not None and first.shared is second.shared:
        return
    where = second.handler.where
    shared = sorted(set(first.channels) & set(second.channels))
    if _name(first) == _name(second) and (shared or (first.pattern and first.pattern == second.pattern)):
        what = ", ".join(shared) or f"pattern {first.pattern}"
        yield ConfigError(
            f"{second.action} and {first.action} read {what} in one group, {_name(first)}: each would get a part of it",
            where=where,
            hint="give each a group of its own",
        )
    elif first.retry_base == second.retry_base:
        yield ConfigError(
            f"{second.action} and {first.action} share retry channels: both are named after {first.retry_base}",
            where=where,
            hint="give one of them another retry_channel",
        )


def _name(plan: Plan) -> str:
    """What its progress is called in the broker."""
    own = plan.options.subscription if isinstance(plan.options, PulsarSubscription) else None
    return own or plan.group


def _reads_retries(reader: Plan, plans: Sequence[Plan]) -> Iterator[ConfigError]:
    """A subscription may read dead letters of another by name; retry channels belong to their owner alone."""
    for owner in plans:
        retries = retry_channels(owner.retry_base, owner.retry.channels_count)
        dead_letter = dead_letter_channel(owner.retry_base)
        read = [one for one in reader.channels if one in retries or (one == dead_letter and owner is reader)]
        if read:
            yield ConfigError(
                f"{reader.action} reads {read[0]}, which belongs to the retries of {owner.action}",
                where=reader.handler.where,
                hint="read its dead letters instead, or rename one of them with retry_channel",
            )
        if reader.pattern is None:
            continue
        matched = [one for one in (*retries, dead_letter) if re.fullmatch(reader.pattern, one)]
        if matched:
            yield ConfigError(
                f"the pattern of {reader.action} matches {matched[0]}, which belongs to {owner.action}",
                where=reader.handler.where,
                hint=r"exclude such channels: put (?!.*\.(retry\.\d+|dlq)$) in front of the pattern",
            )

"""From schedules at functions to what runs them: the channels of their ticks, and the subscription that makes those."""

from collections.abc import Sequence

from msgspec.structs import replace

from hexa_worker.config.model import Config
from hexa_worker.core.retry import Retries
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.api import Mark
from hexa_worker.subscriptions.collect import Marked
from hexa_worker.subscriptions.merge import make_plan
from hexa_worker.subscriptions.plan import Plan
from hexa_worker.subscriptions.schedules import schedule_of
from hexa_worker.subscriptions.ticker import ACTION, UNKNOWN_TIMES, Target, Ticker


def in_its_channel(marked: Marked, config: Config) -> Marked:
    """A function that has a schedule and no channel, with the channel of its ticks."""
    mark = marked.mark
    if schedule_of(marked.function) is None or mark.channels or mark.pattern is not None:
        return marked
    channel = f"hexa-ticks.{config.file.worker.name}.{mark.action}"
    return Marked(marked.function, replace(mark, channels=(channel,)))


def scheduling(config: Config, plans: Sequence[Plan]) -> tuple[Ticker | None, list[Plan]]:
    """What makes the ticks of `plans`, and the subscription that it needs; None and nothing where there are none.

    Raises:
        ConfigError: a schedule has no one channel for its ticks.
    """
    targets: dict[str, Target] = {}
    for plan in plans:
        if plan.schedule is None:
            continue
        if len(plan.channels) != 1:
            raise ConfigError(
                f"{plan.action} has a schedule, and reads not one channel: its ticks need one",
                where=plan.handler.where,
                hint="leave the channels out, or mark another function with the schedule",
            )
        targets[plan.action] = Target(plan.schedule, plan.channels[0])
    if not targets:
        return None, []
    name = f"{ACTION}.{config.file.worker.name}"
    ticker = Ticker(name, targets)
    # One process reads it, in order; what this process does not know waits for others in retry channels.
    mark = Mark(
        action=ACTION,
        channels=(name,),
        order_by="channel",
        concurrency=1,
        timeout_s=0,
        retry=Retries(maximum=UNKNOWN_TIMES, initial_s=1.0),
    )
    made = make_plan(config, Marked(ticker.handler, mark), ())
    return ticker, [replace(made, group=name, retry_base=name, internal=True)]

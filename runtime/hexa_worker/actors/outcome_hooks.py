"""Tells an application's hooks what was decided, without a cost for those that have none."""

from collections.abc import Sequence

from msgspec.structs import replace

from hexa_worker.actors.settler import Settler
from hexa_worker.core.settlement import Acked, DeadLettered, Released, Settlement, is_snooze
from hexa_worker.subscriptions.decisions import Decision, OutcomeHook
from hexa_worker.telemetry.log import SubscriptionLog


class OutcomeHooks:
    """One worker's.

    Args:
        action: the subscription's name.
        hooks: told in this order.
        log: says when one of them fails.
    """

    def __init__(self, action: str, hooks: Sequence[OutcomeHook], log: SubscriptionLog) -> None:
        self._action = action
        self._hooks = hooks
        self._log = log

    def tell(self, settlement: Settlement, error: BaseException | None, *, held: bool = False) -> None:
        """Tell what was decided; `error` is what the handler raised, `held` a dead letter that is held instead."""
        decision = _decision(self._action, settlement, error, held=held)
        if decision is None:
            return
        for hook in self._hooks:
            try:
                hook(decision)
            except Exception as failure:  # noqa: BLE001 - the user's; no delivery fails by it
                self._log.hook_failed(failure)


class ToldSettler:
    """The settler as lanes have it, where hooks are told of successes, too."""

    def __init__(self, settler: Settler, hooks: OutcomeHooks) -> None:
        self._settler = settler
        self._hooks = hooks

    def add(self, settlement: Settlement) -> None:
        """Hand over one settlement."""
        self._hooks.tell(settlement, None)
        self._settler.add(settlement)

    async def wait_suspects(self) -> None:
        """See `Settler.wait_suspects`."""
        await self._settler.wait_suspects()


def _decision(action: str, settlement: Settlement, error: BaseException | None, *, held: bool) -> Decision | None:
    """What hooks are told; None: nothing."""
    made = Decision(action=action, delivery=settlement.delivery, what="acked", error=error)
    if isinstance(settlement, Released):
        return None
    if isinstance(settlement, Acked):
        return made if settlement.dropped is None else replace(made, what="dropped", dropped=settlement.dropped)
    if isinstance(settlement, DeadLettered):
        return replace(made, what="held" if held else "dead-lettered", failure=settlement.failure)
    what = "snoozed" if is_snooze(settlement) else "retried"
    return replace(made, what=what, failure=settlement.failure, delay_s=settlement.delay_s)

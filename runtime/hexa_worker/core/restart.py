"""Restart intensity: how soon something that failed is started again, and when to give up.

The sliding window is OTP supervisor's `add_restart`; the delay between restarts is exponential.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

Restarts = Annotated[int, Meta(ge=0, le=1000)]
"""At most 1000, which keeps the doubling delay inside a float."""
Delay = Annotated[float, Meta(ge=0)]


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When something that fails again and again is given up: after more than `max_restarts` within `window_s`.

    Attributes:
        max_restarts: restarts allowed inside the window.
        window_s: length of the window, in seconds.
        initial_delay_s: delay before the first restart, in seconds.
        maximum_delay_s: longest delay, in seconds; the delay doubles with each restart inside the window.
    """

    max_restarts: Restarts = 5
    window_s: Annotated[float, Meta(gt=0)] = 60.0
    initial_delay_s: Delay = 0.1
    maximum_delay_s: Delay = 10.0


class ProcessRestartPolicy(RestartPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same for processes, which may die often until the delivery that kills them is identified.

    Attributes:
        max_restarts: restarts allowed inside the window.
        window_s: length of the window, in seconds.
        initial_delay_s: delay before the first restart, in seconds.
        maximum_delay_s: longest delay, in seconds; the delay doubles with each restart inside the window.
    """

    max_restarts: Restarts = 20
    maximum_delay_s: Delay = 2.0


class RestartIntensity(msgspec.Struct, frozen=True):
    """The failures inside the window, oldest first (monotonic seconds)."""

    policy: RestartPolicy
    failures: tuple[float, ...] = ()

    def record(self, now: float) -> tuple["RestartIntensity", float | None]:
        """Note a failure at `now`.

        Returns:
            The new state, and the delay in seconds before the restart; None means: give up.
        """
        recent = (*(at for at in self.failures if now - at < self.policy.window_s), now)
        state = RestartIntensity(self.policy, recent)
        if len(recent) > self.policy.max_restarts:
            return state, None
        delay = self.policy.initial_delay_s * 2.0 ** (len(recent) - 1)
        return state, min(delay, self.policy.maximum_delay_s)

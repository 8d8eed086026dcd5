"""The conformance suite: what every driver must do, as named claims that can be checked one by one."""

from hexa_worker.testing.conformance import (  # noqa: F401 - importing a module adds its claims, in this order
    browsing,
    clocks,
    inspection,
    leases,
    life,
    ordering,
    outage,
    publishing,
    receiving,
    retrying,
    settling,
    waiting,
)
from hexa_worker.testing.conformance.context import Bench, DriverUnderTest
from hexa_worker.testing.conformance.suite import Claim, Report, check_driver, claim, claims

__all__ = ["Bench", "Claim", "DriverUnderTest", "Report", "check_driver", "claim", "claims"]

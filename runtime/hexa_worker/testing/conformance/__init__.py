"""The conformance suite: what every driver must do, as named claims that can be checked one by one."""

from hexa_worker.testing.conformance import (  # noqa: F401 - importing a module adds its claims, in this order
    browsing,
    clocks,
    inspection,
    later,
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
from hexa_worker.testing.conformance.context import ConformanceContext, DriverUnderTest
from hexa_worker.testing.conformance.suite import ConformanceCheck, DriverReport, check_driver, claim, claims

__all__ = [
    "ConformanceCheck",
    "ConformanceContext",
    "DriverReport",
    "DriverUnderTest",
    "check_driver",
    "claim",
    "claims",
]

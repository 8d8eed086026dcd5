"""The public test kit of hexa-worker.

- `Harness`: a user's handlers in virtual time, for their own tests.
- `simulate`: the same while processes crash and the broker goes away; replayed by its seed.
- `check_driver`, `claims`, `DriverUnderTest`: does a driver do what the runtime relies on?
- `hexa_worker.testing.ledger` and `hexa_worker.testing.judge`: what really happened, and whether it may.
"""

from hexa_worker.testing.conformance import (
    ConformanceCheck,
    ConformanceContext,
    DriverUnderTest,
    check_driver,
    claim,
    claims,
)
from hexa_worker.testing.conformance import DriverReport as DriverReport
from hexa_worker.testing.harness import Harness, HarnessError
from hexa_worker.testing.records import Emitted, Settled
from hexa_worker.testing.simulate import FaultRates, Simulated, SimulationFailed, simulate
from hexa_worker.testing.virtual import VirtualTime

__all__ = [
    "ConformanceCheck",
    "ConformanceContext",
    "DriverReport",
    "DriverUnderTest",
    "Emitted",
    "FaultRates",
    "Harness",
    "HarnessError",
    "Settled",
    "Simulated",
    "SimulationFailed",
    "VirtualTime",
    "check_driver",
    "claim",
    "claims",
    "simulate",
]

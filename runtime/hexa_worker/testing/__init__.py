"""The public test kit of hexa-worker.

- `check_driver`, `claims`, `DriverUnderTest`: does a driver do what the runtime relies on?
"""

from hexa_worker.testing.conformance import Bench, Claim, DriverUnderTest, Report, check_driver, claim, claims

__all__ = ["Bench", "Claim", "DriverUnderTest", "Report", "check_driver", "claim", "claims"]

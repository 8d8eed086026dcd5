"""The fault injection points: specification, counting, and what each action does to a process."""

import os
import signal
import subprocess
import sys

import anyio
import pytest

from hexa_worker import faults
from hexa_worker.errors import ConfigError, DriverUnavailable


def hits(spec: str, point: str, times: int) -> list[int]:
    """The numbers of the hits (from 1) of `point` at which `spec` raises."""
    inject = faults.injector_of(faults.parse(spec))
    raised: list[int] = []

    async def run() -> None:
        for number in range(1, times + 1):
            try:
                await inject(point)
            except DriverUnavailable:
                raised.append(number)

    anyio.run(run)
    return raised


def test_a_rule_fires_only_at_its_own_point() -> None:
    assert hits("before-settle:unavailable", "after-settle", 3) == []
    assert hits("before-settle:unavailable", "before-settle", 3) == [1, 2, 3]


def test_at_fires_once_at_that_hit() -> None:
    assert hits("received:unavailable:at=3", "received", 6) == [3]


def test_n_limits_how_often_a_rule_fires() -> None:
    assert hits("received:unavailable:n=2", "received", 6) == [1, 2]


def test_a_seed_makes_the_probability_repeatable() -> None:
    first = hits("received:unavailable:p=0.3,seed=7", "received", 50)
    assert first == hits("received:unavailable:p=0.3,seed=7", "received", 50)
    assert 5 <= len(first) <= 25


def test_several_rules_are_separated_by_semicolons() -> None:
    rules = faults.parse("received:kill:at=2; before-publish:delay:s=0.5;")
    assert [(rule.point, rule.action) for rule in rules] == [("received", "kill"), ("before-publish", "delay")]
    assert rules[1].s == 0.5


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("before-lunch:kill", "before-lunch"),
        ("received:explode", "explode"),
        ("received:kill:q=1", "q"),
        ("received:kill:p=often", "received:kill:p=often"),
        ("received", "''"),
    ],
)
def test_a_bad_specification_is_a_config_error_that_names_the_rule(spec: str, named: str) -> None:
    with pytest.raises(ConfigError, match="HEXA_WORKER_FAULTS") as caught:
        faults.parse(spec)
    assert named in str(caught.value)


def test_a_point_does_nothing_when_nothing_is_installed() -> None:
    assert faults.install(None) is None
    anyio.run(faults.fault, "received")


@pytest.mark.parametrize(("action", "code"), [("kill", -signal.SIGKILL), ("exit", 70), ("exit:code=9", 9)])
def test_the_environment_variable_makes_a_process_die_at_the_point(action: str, code: int) -> None:
    program = "import anyio; from hexa_worker.faults import fault; anyio.run(fault, 'after-settle')"
    environment = {**os.environ, faults.VARIABLE: f"after-settle:{action}"}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, check=False, timeout=30)
    assert ended.returncode == code

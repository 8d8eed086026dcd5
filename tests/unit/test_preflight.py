"""What `check --connect` says of what it found."""

import pytest
from msgspec import structs

from hexa_worker.cli.check import _warnings
from hexa_worker.cli.preflight import Look, in_words
from hexa_worker.drivers.base import Finding
from hexa_worker.drivers.kafka.rights import rights_of
from hexa_worker.drivers.nats.inspection import allowed


def test_a_problem_that_subscriptions_share_counts_once() -> None:
    refused = Finding(kind="channel", name="orders", exists=True, problem="this login has no right to read")
    fine = Finding(kind="group", name="a", exists=False)
    look = Look("kafka", {}, {"a": [refused, fine], "b": [refused]})
    assert look.problems == [refused]
    assert look.warnings == []


def test_a_warning_is_no_problem_and_counts_once_per_thing() -> None:
    short = Finding(kind="retry channel", name="a.retry.1", exists=True, warning="messages expire after 30 s")
    other = structs.replace(short, name="a.retry.2")
    look = Look("kafka", {}, {"a": [short, other], "b": [short]})
    assert look.problems == []
    assert look.warnings == [short, other]


def test_what_is_wrong_with_the_claim_store_counts_as_a_warning() -> None:
    assert _warnings(Look("kafka", {}, {}, ["redis evicts keys"])) == " (1 warning, see above)"


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (Finding(kind="channel", name="a", exists=True, note="3 partitions"), "there, 3 partitions"),
        (Finding(kind="channel", name="a", exists=False), "not yet: a worker makes it"),
        (Finding(kind="channel", name="a", exists=None), "cannot be told"),
        (Finding(kind="channel", name="a", exists=True, rights=("read",)), "there, rights: read"),
        (Finding(kind="channel", name="a", exists=True, problem="it is sealed"), "PROBLEM: it is sealed"),
        (
            Finding(kind="channel", name="a", exists=True, note="1 part", warning="short"),
            "there, 1 part, WARNING: short",
        ),
    ],
)
def test_a_finding_is_said_in_a_few_words(finding: Finding, words: str) -> None:
    assert in_words(finding) == words


def test_kafka_rights_are_named_and_none_are_invented() -> None:
    assert rights_of(1 << 3 | 1 << 8) == {"read", "describe"}
    assert rights_of(-(2**31)) == frozenset()


@pytest.mark.parametrize(
    ("publish", "subject", "may"),
    [
        ({}, "a.b", True),
        ({"allow": ["a.>"]}, "a.b", True),
        ({"allow": ["a.>"]}, "b", False),
        ({"deny": ["a.*"]}, "a.b", False),
        ({"allow": [">"], "deny": ["a.b"]}, "a.b", False),
        ({"allow": ["a.b"], "deny": ["a.c"]}, "a.b", True),
    ],
)
def test_nats_rights_follow_allow_and_deny(publish: dict[str, list[str]], subject: str, *, may: bool) -> None:
    assert allowed({"permissions": {"publish": publish}}, subject) is may


def test_a_nats_server_that_tells_nothing_forbids_nothing() -> None:
    assert allowed(None, "a")
    assert allowed({"user": "u"}, "a")

"""Where a Pulsar subscription stands, without a broker: what is noted and marked."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.names import TopicNames
from hexa_worker.drivers.pulsar.positions import MARK, Positions

TOPIC = "persistent://public/default/work"


class _Admin:
    """One topic with one subscription."""

    def __init__(self) -> None:
        self.stands = "3:10"
        self.noted: dict[str, str] = {}
        self.marks: Mapping[str, str] = {}
        self.resets: list[tuple[int, int]] = []

    def make_again(self, ledger: int) -> None:
        """Another topic of this name, with another subscription."""
        self.stands, self.noted, self.marks = f"{ledger}:0", {}, {}

    def part_names(self, topic: str) -> Sequence[str]:
        return [topic]

    def internal_stats(self, _topic: str) -> Mapping[str, Any]:
        return {"cursors": {"group": {"markDeletePosition": self.stands}}, "lastConfirmedEntry": "9:99"}

    def properties(self, _topic: str) -> Mapping[str, str]:
        return self.noted

    def set_properties(self, _topic: str, properties: Mapping[str, str]) -> None:
        self.noted.update(properties)

    def subscription_properties(self, _topic: str, _name: str) -> Mapping[str, str]:
        return self.marks

    def describe_subscription(self, _topic: str, _name: str, properties: Mapping[str, str]) -> None:
        self.marks = properties

    def reset_subscription(self, _topic: str, _name: str, first: tuple[int, int]) -> None:
        self.resets.append(first)


def test_a_topic_that_was_made_again_gets_its_mark_so_that_an_operator_may_put_it_back() -> None:
    admin = _Admin()

    def look() -> None:
        positions.look([TOPIC])

    positions = Positions(cast("Admin", admin), TopicNames("persistent://public/default/{}"), "group")
    look()
    assert MARK in admin.marks
    admin.make_again(ledger=7)
    look()
    assert MARK in admin.marks
    admin.stands = "7:-1"
    positions = Positions(cast("Admin", admin), TopicNames("persistent://public/default/{}"), "group")
    look()
    assert admin.resets == []

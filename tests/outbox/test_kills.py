"""Relays that are killed, stopped and started, servers that die: nothing is lost, and keys keep their order."""

import random
import signal
import time

import pytest

from tests.lab.base import Broker
from tests.outbox.fleet import Writer, end_relays, judge, relays, wait_leading, wait_sent
from tests.outbox.stage import Place

EVENTS = 1_500
KILLS = 8


def test_relays_killed_at_random_lose_nothing_and_keep_every_key_in_order(place: Place) -> None:
    chance = random.Random(7)
    writers = [Writer(place, name, EVENTS // 2) for name in "ab"]
    with relays(place) as fleet:
        for one in writers:
            one.start()
        for _ in range(KILLS):
            process = fleet.start()
            time.sleep(chance.uniform(0.6, 1.2))
            process.kill()
            process.wait()
        fleet.start()
        for one in writers:
            one.join()
        judge(wait_sent(place, writers), writers)


@pytest.mark.parametrize("point", ["outbox-fetched", "outbox-published", "outbox-advanced"])
def test_a_relay_killed_at_each_step_of_its_cycle_loses_nothing(place: Place, point: str) -> None:
    ids = place.write(*range(10))
    with relays(place) as fleet:
        assert fleet.start(f"{point}:kill:at=1").wait(30) == -signal.SIGKILL
        fleet.start()
        writer = Writer(place, "k", 0)
        writer.committed = [("k", number) for number in range(10)]
        found = wait_sent(place, [writer])
    assert [number for _, number in dict.fromkeys(found)] == list(range(10))
    assert len(found) <= 2 * len(ids)


@pytest.mark.postgres
def test_a_relay_that_was_frozen_beyond_its_connection_never_mixes_the_order_of_a_key(
    postgres_place: Place,
) -> None:
    """The server ends the connection of the frozen leader; another one takes over, then the first one wakes."""
    place = postgres_place
    writer = Writer(place, "a", EVENTS // 2)
    with relays(place) as fleet:
        first = fleet.start()
        writer.start()
        wait_leading(place)
        fleet.start()
        for _ in range(2):
            time.sleep(0.3)
            first.send_signal(signal.SIGSTOP)
            end_relays(place)
            time.sleep(0.3)
            first.send_signal(signal.SIGCONT)
        writer.join()
        judge(wait_sent(place, [writer]), [writer])


@pytest.mark.postgres
def test_a_relay_that_is_frozen_is_replaced_though_its_connection_stays(postgres_place: Place) -> None:
    place = postgres_place
    writer = Writer(place, "a", 100)
    with relays(place) as fleet:
        first = fleet.start()
        wait_leading(place)
        fleet.start()
        first.send_signal(signal.SIGSTOP)
        writer.start()
        writer.join()
        wait_sent(place, [writer])
        first.send_signal(signal.SIGCONT)
        place.write(100, key="a0")
        writer.committed.append(("a0", 100))
        judge(wait_sent(place, [writer]), [writer])


@pytest.mark.postgres
def test_a_database_that_dies_again_and_again_loses_no_committed_event(postgres_place: Place, postgres: Broker) -> None:
    place = postgres_place
    writers = [Writer(place, name, EVENTS // 2) for name in "ab"]
    with relays(place) as fleet:
        fleet.start()
        fleet.start()
        for one in writers:
            one.start()
        for _ in range(2):
            time.sleep(0.7)
            postgres.kill()
            postgres.start()
        for one in writers:
            one.join()
        judge(wait_sent(place, writers), writers)

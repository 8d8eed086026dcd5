"""The lineage store in PostgreSQL: shared by many, never in the worker's way, back after any outage."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import psycopg
import pytest

from hexa_worker.clock import SystemClock
from hexa_worker.config.secret import Secret
from hexa_worker.core.lineage import EVENT_ID, PARENT_ID, ROOT_ID
from hexa_worker.core.message import Delivery
from hexa_worker.core.settlement import Acked
from hexa_worker.lineage import recorder as recording
from hexa_worker.lineage.base import StoreError
from hexa_worker.lineage.finding import find
from hexa_worker.lineage.packs import Gathering
from hexa_worker.lineage.postgres import PostgresLineageStore
from hexa_worker.lineage.recorder import Recorder
from tests.lab.base import Broker
from tests.lab.logins import PASSWORD

pytestmark = pytest.mark.postgres
LIMIT_S = 60.0


@pytest.fixture
def url(postgres: Broker, unique_name: Callable[..., str]) -> str:
    """A database of its own."""
    name = unique_name("lineage").replace("-", "_")
    with psycopg.connect(postgres.address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{postgres.address.rpartition('/')[0]}/{name}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "REOPEN_S", 0.2)


@pytest.fixture
def recorder(url: str) -> Iterator[Recorder]:
    made = Recorder(lambda: PostgresLineageStore(Secret(url)), SystemClock())
    yield made
    made.close()


def delivery(event_id: str, root: str | None = None) -> Delivery:
    kin = () if root is None else ((ROOT_ID, root.encode()), (PARENT_ID, root.encode()))
    return Delivery(channel="work", payload=b"", headers=((EVENT_ID, event_id.encode()), *kin), source="work", offset=1)


def record(recorder: Recorder, *ids: str) -> None:
    recorder.record("do", [Acked(delivery(one)) for one in ids], SystemClock().now_ms())


def known(url: str, ids: Sequence[str]) -> set[str]:
    """Those of `ids` that are in the store; none where nothing was recorded yet."""
    try:
        store = PostgresLineageStore(Secret(url), create=False)
    except StoreError:
        return set()
    with closing(store):
        return {one for one in ids if find(store, one)}


def wait_known(url: str, *ids: str) -> None:
    end = time.monotonic() + LIMIT_S
    while known(url, ids) != set(ids):
        assert time.monotonic() < end, f"not stored: {set(ids) - known(url, ids)}"
        time.sleep(0.05)


def test_a_tree_that_several_services_wrote_is_found_by_any_of_its_events(url: str) -> None:
    recorders = [Recorder(lambda: PostgresLineageStore(Secret(url)), SystemClock()) for _ in range(4)]
    for number, one in enumerate(recorders):
        one.record(f"service-{number}", [Acked(delivery("r"))], 1_000_000)
        one.record(f"service-{number}", [Acked(delivery(f"c-{number}", root="r"))] * 2, 1_000_000)
    for one in recorders:
        one.close()
    with closing(PostgresLineageStore(Secret(url), create=False)) as store:
        for asked in ("r", "c-3"):
            entries = find(store, asked)
            assert sorted((entry.event_id, entry.action) for entry in entries) == [
                *((f"c-{number}", f"service-{number}") for number in range(4)),
                *(("r", f"service-{number}") for number in range(4)),
            ]
        assert find(store, "c-") == []


def test_a_recorder_outlives_a_restart_and_loses_nothing(postgres: Broker, url: str, recorder: Recorder) -> None:
    record(recorder, "before")
    wait_known(url, "before")
    postgres.kill()
    record(recorder, "during-1")
    time.sleep(0.5)  # long enough for failed attempts
    record(recorder, "during-2")
    postgres.start()
    wait_known(url, "before", "during-1", "during-2")
    assert recorder.forgotten == 0


def test_a_database_that_is_away_at_the_start_is_waited_for_without_waiting(postgres: Broker, url: str) -> None:
    postgres.stop()
    recorder = Recorder(lambda: PostgresLineageStore(Secret(url)), SystemClock())
    record(recorder, "e")
    postgres.start()
    wait_known(url, "e")  # nothing else has to happen for it
    recorder.close()


def test_a_frozen_database_holds_up_nobody(postgres: Broker, url: str, recorder: Recorder) -> None:
    record(recorder, "before")
    wait_known(url, "before")
    postgres.freeze()
    began = time.thread_time()
    for number in range(1000):
        record(recorder, f"e-{number}")
    assert time.thread_time() - began < 5
    postgres.thaw()
    wait_known(url, "e-0", "e-999")


def test_a_frozen_database_does_not_keep_a_worker_from_ending(
    postgres: Broker, url: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "CLOSE_S", 0.5)
    record(recorder, "before")
    wait_known(url, "before")
    postgres.freeze()
    record(recorder, "e")
    recorder.close()
    postgres.thaw()


def test_what_is_too_old_is_forgotten_by_any_process(url: str) -> None:
    with closing(PostgresLineageStore(Secret(url))) as store, closing(PostgresLineageStore(Secret(url))) as other:
        for at_ms in range(1, 1201):
            gathering = Gathering()
            gathering.add("do", [Acked(delivery(f"e{at_ms}"))], at_ms)
            store.append(gathering.pack(), at_ms)
        assert store.expire(before_ms=1001) + other.expire(before_ms=1001) == 1000
        assert store.expire(before_ms=1001) == 0
        assert list(store.mentioning("e1000", 0)) == []
        assert [entry.event_id for entry in other.mentioning("e1001", 0)] == ["e1001"]


def test_a_store_of_a_newer_version_is_left_alone(url: str) -> None:
    PostgresLineageStore(Secret(url)).close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE hexa_lineage_schema SET version = 99")
    with pytest.raises(StoreError, match="its version is 99, this release knows 1"):
        PostgresLineageStore(Secret(url))


def test_an_empty_database_is_told_when_it_is_only_read(url: str) -> None:
    with pytest.raises(StoreError, match="nothing was recorded yet"):
        PostgresLineageStore(Secret(url), create=False)


def test_tls_is_checked_and_the_password_is_never_told(get_broker: Callable[[str], Broker]) -> None:
    broker = get_broker("postgres-secure")
    login = broker.address.replace("postgres@", f"postgres:{PASSWORD}@")
    trusted = f"{login}?sslmode=verify-full&sslrootcert={broker.certificates.ca}"
    PostgresLineageStore(Secret(trusted)).close()
    for wrong in (
        f"{login}?sslmode=verify-full&sslrootcert=system",
        trusted.replace(PASSWORD, "other-canary"),
        f"postgresql://postgres:{PASSWORD}@[::1",
        f"postgresql://alice:{PASSWORD}",
    ):
        with pytest.raises(StoreError) as caught:
            PostgresLineageStore(Secret(wrong))
        assert PASSWORD not in str(caught.value)
        assert "canary" not in str(caught.value)


def test_a_certificate_for_another_host_is_refused(get_broker: Callable[[str], Broker]) -> None:
    broker = get_broker("postgres-wrong-host")
    login = broker.address.replace("postgres@", f"postgres:{PASSWORD}@")
    with pytest.raises(StoreError, match="does not match host name"):
        PostgresLineageStore(Secret(f"{login}?sslmode=verify-full&sslrootcert={broker.certificates.ca}"))

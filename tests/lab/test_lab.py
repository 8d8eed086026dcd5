"""Every broker of the lab really runs, survives what it is made to suffer, and ends with its run."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path

import pytest

from tests.lab.base import Broker
from tests.lab.errors import NotOurBrokerError
from tests.lab.external import External
from tests.lab.lab import Lab, make_broker, remove_orphans
from tests.lab.processes import Process, load_process
from tests.lab.proxy import Proxy
from tests.lab.round_trips import round_trip

NAMES = [
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("kafka", "kafka39", "pulsar")),
    *("nats", "nats29", "redis", "postgres"),
]
RECORDS = [b"record %d" % number for number in range(20)]
PATIENCE_S = 30

GetBroker = Callable[[str], Broker]
OpenProxy = Callable[[Broker], Proxy]


@pytest.mark.parametrize("name", NAMES)
def test_confirmed_records_survive_sigkill(name: str, get_broker: GetBroker, unique_name: Callable[..., str]) -> None:
    write, read = round_trip(name)
    broker, channel = get_broker(name), unique_name()
    write(broker.address, channel, RECORDS)
    address, pid = broker.address, broker.pid
    broker.kill()
    assert not broker.running
    assert broker.was_killed
    broker.start()
    assert broker.pid != pid
    assert broker.address == address
    assert read(broker.address, channel, len(RECORDS)) == RECORDS


@pytest.mark.parametrize("name", NAMES)
def test_records_survive_an_orderly_restart(name: str, get_broker: GetBroker, unique_name: Callable[..., str]) -> None:
    write, read = round_trip(name)
    broker, channel = get_broker(name), unique_name()
    write(broker.address, channel, RECORDS[:3])
    broker.restart()
    assert read(broker.address, channel, 3) == RECORDS[:3]


@pytest.mark.parametrize("name", NAMES)
def test_frozen_broker_answers_only_after_the_thaw(
    name: str, get_broker: GetBroker, unique_name: Callable[..., str]
) -> None:
    write, read = round_trip(name)
    broker, channel = get_broker(name), unique_name()
    write(broker.address, channel, RECORDS[:1])
    with ThreadPoolExecutor(1) as pool:
        broker.freeze()
        late = pool.submit(read, broker.address, channel, 1)
        try:
            with pytest.raises(StillWaiting):
                late.result(0.5)
        finally:
            broker.thaw()
        assert late.result(PATIENCE_S) == RECORDS[:1]


@pytest.mark.parametrize("name", NAMES)
def test_clients_stay_behind_the_proxy(
    name: str, get_broker: GetBroker, open_proxy: OpenProxy, unique_name: Callable[..., str]
) -> None:
    write, read = round_trip(name)
    broker, channel, large = get_broker(name), unique_name(), os.urandom(200_000)
    proxy = open_proxy(broker)
    write(broker.proxied_address, channel, [large])
    assert proxy.forwarded >= len(large)
    assert read(broker.proxied_address, channel, 1) == [large]
    assert proxy.forwarded >= 2 * len(large)


@pytest.mark.parametrize("name", NAMES)
def test_black_hole_holds_clients_up_until_it_heals(
    name: str, get_broker: GetBroker, open_proxy: OpenProxy, unique_name: Callable[..., str]
) -> None:
    write, read = round_trip(name)
    broker, channel = get_broker(name), unique_name()
    write(broker.address, channel, RECORDS[:1])
    proxy = open_proxy(broker)
    with ThreadPoolExecutor(1) as pool:
        proxy.black_hole()
        late = pool.submit(read, broker.proxied_address, channel, 1)
        try:
            with pytest.raises(StillWaiting):
                late.result(0.5)
        finally:
            proxy.heal()
        assert late.result(PATIENCE_S) == RECORDS[:1]


@pytest.mark.parametrize("name", ["nats", "redis", "postgres"])
def test_wiped_broker_starts_empty_at_the_same_address(name: str, tmp_path: Path) -> None:
    write, read = round_trip(name)
    broker = make_broker(name, tmp_path)
    try:
        broker.start()
        address = broker.address
        write(address, "kept", RECORDS[:1])
        broker.wipe()
        assert not broker.running
        broker.start()
        assert broker.address == address
        write(address, "kept", RECORDS[1:2])
        assert read(address, "kept", 1) == RECORDS[1:2]
    finally:
        broker.close()
    assert not broker.root.exists()


@pytest.mark.parametrize("name", ["nats", "postgres"])
def test_brokers_die_with_a_run_that_is_killed(name: str) -> None:
    program = f"""
import time
from tests.lab.lab import Lab
broker = Lab().get({name!r})
print(broker.root, flush=True)
time.sleep(60)
"""
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    root = Path(run.stdout.readline().strip())
    process = load_process(root / "broker.pid")
    assert isinstance(process, Process)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert process.wait_gone(5)
    remove_orphans()
    assert not root.exists()


def test_brokers_of_a_living_run_are_left_alone(nats: Broker) -> None:
    if nats.ours:
        remove_orphans()
        assert nats.running
        assert nats.root.exists()


def test_command_line_starts_and_ends_brokers_that_outlive_it(tmp_path: Path) -> None:
    def lab(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-m", "tests.lab", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    write, read = round_trip("nats")
    try:
        up = lab("up", "nats")
        assert up.returncode == 0, up.stderr
        address = up.stdout.splitlines()[0].removeprefix("HEXA_TEST_NATS=")
        write(address, "kept", RECORDS)
        status = lab("status", "nats")
        assert status.returncode == 0
        assert "nats: ready, 2." in status.stdout
        assert address in status.stdout
        assert lab("down", "nats").returncode == 0
        assert lab("status", "nats").returncode == 1
        assert address in lab("up", "nats").stdout
        assert read(address, "kept", len(RECORDS)) == RECORDS
    finally:
        wiped = lab("wipe")
    assert wiped.stdout == "nats: wiped\n"
    assert list((tmp_path / "var" / "brokers").iterdir()) == []


def test_two_runs_side_by_side_get_different_ports(nats: Broker, tmp_path: Path) -> None:
    second = make_broker("nats", tmp_path)
    try:
        second.start()
        assert second.address != nats.address
    finally:
        second.close()


def test_given_address_is_used_and_never_broken(nats: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEXA_TEST_NATS", nats.address)
    run = Lab()
    given = run.get("nats")
    assert isinstance(given, External)
    assert given.address == nats.address
    for fault in (given.kill, given.freeze, given.stop, given.restart, given.wipe, given.open_proxy):
        with pytest.raises(NotOurBrokerError):
            fault()
    run.heal()
    run.close()
    assert nats.running


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_broker_that_cannot_be_had_skips_its_tests_but_fails_ci(ci: str, outcome: str, tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_one(nats):\n    pass\n")
    environment = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "CI": ci}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "pytest", "-p", "tests.lab.plugin", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert outcome in done.stdout
    assert "nats: package golang-go is not installed, and installing it needs apt and root" in done.stdout

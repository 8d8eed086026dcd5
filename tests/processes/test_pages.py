"""The status pages, fetched over real sockets."""

import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hexa_worker.processes.slot import SlotPhase
from hexa_worker.processes.status.overview import Overview, Process
from hexa_worker.telemetry.report import Report
from tests.processes.conftest import MakeStage
from tests.processes.stage import LIMIT_S, Stage

HTTP = "[worker.http]\nport = 0"


def port_of(stage: Stage) -> int:
    line = stage.log("status pages on")["message"]
    return int(line.rpartition(":")[2].partition("/")[0])


def fetch(stage: Stage, path: str) -> tuple[int, bytes]:
    try:
        with urlopen(f"http://127.0.0.1:{port_of(stage)}{path}", timeout=10) as reply:
            return reply.status, reply.read()
    except HTTPError as error:
        return error.code, error.read()


def samples(stage: Stage) -> dict[tuple[str, ...], float]:
    _, body = fetch(stage, "/metrics")
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def seen(look: Callable[[], object]) -> bool:
    """Look until it is so: what a process reports is on its way for a moment after it says that it did."""
    end = time.monotonic() + LIMIT_S
    while not look():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_running_worker_is_alive_and_ready_and_says_so_for_every_part(make_stage: MakeStage) -> None:
    stage = make_stage(worker="processes = 2\n" + HTTP)
    stage.start()
    stage.hear("running", 2)
    assert fetch(stage, "/live")[0] == 200
    assert seen(lambda: fetch(stage, "/ready")[0] == 200)
    status: dict[str, Any] = json.loads(fetch(stage, "/status")[1])
    assert status["code"] == "app.status"
    assert status["data"]["alive"] is status["data"]["ready"] is True
    ids = sorted(one["id"] for one in status["data"]["statuses"])
    assert ids == ["do", "do", "process-0", "process-1"]
    assert {tuple(sorted(one)) for one in status["data"]["statuses"]} == {("alive", "id", "ready", "tags")}


def test_a_worker_that_has_not_booted_is_not_ready(make_stage: MakeStage) -> None:
    stage = make_stage("1:die 70", worker="processes = 2\n" + HTTP + "\n[worker.process_restart]\ninitial_delay_s = 60")
    stage.start()
    stage.log("worker process died")
    assert fetch(stage, "/ready")[0] == 503
    assert fetch(stage, "/live")[0] == 200


def test_counters_of_dead_processes_are_kept(make_stage: MakeStage) -> None:
    stage = make_stage("ack 5", "once a die 70", worker=HTTP)
    stage.start()
    stage.hear("running", 4)
    labels = (
        "messaging_action_name=do",
        "messaging_action_root_name=do",
        "messaging_destination=work",
        "messaging_system=embedded",
    )
    acked = ("hexa_worker_settled_events_total", *labels, "settlement=acked")
    assert seen(lambda: samples(stage).get(acked) == 10)
    found = samples(stage)
    assert found["event_consume_duration_seconds_bucket", "le=+Inf", *labels] == 0
    assert found["received_events_total", *labels] == 0
    assert found["hexa_worker_process_restarts_total", "process=0"] == 1
    assert stage.stop() == 0
    stage.log("do: handled 10")


def test_unknown_pages_other_methods_and_noise_are_answered(make_stage: MakeStage) -> None:
    stage = make_stage(worker=HTTP)
    stage.start()
    assert fetch(stage, "/secret")[0] == 404
    for request, status in ((b"POST /live HTTP/1.1\r\n\r\n", b"405"), (b"\xff\xfe\r\n\r\n", b"400")):
        with socket.create_connection(("127.0.0.1", port_of(stage)), 10) as client:
            client.sendall(request)
            assert client.makefile("rb").read().split()[1] == status


def test_a_port_in_use_is_a_configuration_error(make_stage: MakeStage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stage = make_stage(worker=f"[worker.http]\nport = {taken.getsockname()[1]}")
        stage.start()
        assert stage.ended() == 2
    assert "worker.http.port" in stage.logs[-1]


@pytest.mark.parametrize(("standing_s", "ready", "alive"), [(1, True, True), (11, False, True), (61, False, False)])
def test_a_parent_that_stands_is_not_ready_and_later_not_alive(standing_s: float, ready: bool, alive: bool) -> None:
    process = Process(slot=0, pid=1, phase=SlotPhase.UP, ready=True, retiring=False, restarts=0, report=Report())
    found = Overview(name="w", processes=(process,), totals={}, suspects=0, stopping=False, standing_s=standing_s)
    assert (found.ready, found.alive) == (ready, alive)


def test_a_signal_logs_the_status(make_stage: MakeStage) -> None:
    stage = make_stage()
    stage.start()
    (running,) = stage.hear("running")
    stage.log("worker process is ready")
    stage.signal(signal.SIGUSR1)
    line = stage.log("process is up")
    assert (line["pid"], line["do"]) == (running.pid, "running")
    os.kill(running.pid, 0)


class Slow:
    """Clients that send a byte now and then and never end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._clients: list[socket.socket] = []

    def more(self, count: int) -> None:
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", self._port))
            self._clients.append(client)

    def trickle(self) -> None:
        for client in self._clients:
            with suppress(OSError):
                client.send(b"G")

    def close(self) -> None:
        for client in self._clients:
            client.close()


def test_a_probe_is_answered_among_hundreds_of_slow_clients(make_stage: MakeStage) -> None:
    stage = make_stage(worker=HTTP)
    stage.start(prefix=("prlimit", "--nofile=100:100"))
    stage.hear("running")
    stage.log("process is ready")
    slow = Slow(port_of(stage))
    slow.more(200)
    for _ in range(10):
        slow.more(15)
        slow.trickle()
        assert fetch(stage, "/live") == (200, b"alive\n")
    assert len(list(Path(f"/proc/{stage.parent.pid}/fd").iterdir())) < 64 + 30
    (running,) = stage.hear("running")
    os.kill(running.pid, signal.SIGKILL)
    stage.hear("running", 2)
    slow.close()
    assert seen(lambda: fetch(stage, "/ready")[0] == 200)
    assert stage.stop() == 0


def test_a_request_that_does_not_end_is_cut_off_whatever_trickles_in(make_stage: MakeStage) -> None:
    stage = make_stage(worker=HTTP)
    stage.start()
    with socket.create_connection(("127.0.0.1", port_of(stage)), 10) as client:
        began = time.monotonic()
        while True:
            try:
                client.sendall(b"G")
                client.settimeout(0.2)
                assert client.recv(1) == b""
                break
            except TimeoutError:
                assert time.monotonic() - began < LIMIT_S
            except OSError:
                break
        assert time.monotonic() - began > 4


def test_a_parent_without_descriptors_waits_for_better_times(make_stage: MakeStage) -> None:
    stage = make_stage("hold 7", worker=HTTP)
    parent = stage.start()
    (first,) = stage.hear("running")
    stage.log("process is ready")
    limits = resource.prlimit(parent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(parent.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(first.pid, signal.SIGKILL)
    stage.log("cannot start a worker process")
    with socket.create_connection(("127.0.0.1", port_of(stage)), 10) as client:
        client.sendall(b"GET /live HTTP/1.1\r\n\r\n")
        resource.prlimit(parent.pid, resource.RLIMIT_NOFILE, limits)
        assert b" 200 " in client.recv(100), "it waited in the queue"
    stage.hear("running", 2)
    assert stage.stop() == 0

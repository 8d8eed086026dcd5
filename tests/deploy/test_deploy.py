"""The files of ``deploy/``, each as the tool that reads it sees it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.make_dashboard import dashboard, text
from hexa_worker.config.model import WorkerConfig
from hexa_worker.core.lifecycle import WorkerState
from hexa_worker.processes.slot import SlotPhase
from hexa_worker.processes.status.metrics import exposition
from hexa_worker.processes.status.overview import Overview, Process
from hexa_worker.processes.status.totals import Totals
from hexa_worker.telemetry.report import OutboxReport, Report, SubscriptionReport
from tests.lab.cache import building, cache_dir, run_tool, unpack_package

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
METRIC = re.compile(r"\b(?:hexa_worker|received|failed|event)_[a-z_]+\b")
GRACE_S = WorkerConfig(name="any", handlers=("h",)).shutdown_grace_s


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def exposed() -> set[str]:
    """Every name that `/metrics` has samples of, where there is an outbox."""
    subscription = SubscriptionReport(action="charge", state=WorkerState.RUNNING)
    report = Report(system="kafka", booted=True, subscriptions=(subscription,), outbox=OutboxReport(state="leading"))
    process = Process(slot=0, pid=1, phase=SlotPhase.UP, ready=True, retiring=False, restarts=0, report=report)
    view = Overview(
        name="any",
        processes=(process,),
        totals=Totals().sums([report]),
        suspects=0,
        stopping=False,
        standing_s=0.0,
    )
    families = text_string_to_metric_families(exposition(view))
    return {sample.name for family in families for sample in family.samples}


def rules() -> Iterator[dict[str, Any]]:
    for group in documents(ALERTS)[0]["groups"]:
        yield from group["rules"]


def queries() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def unknown(expressions: Iterable[str]) -> set[str]:
    return {name for one in expressions for name in METRIC.findall(one)} - exposed()


@pytest.fixture(scope="session")
def promtool() -> str:
    with building("promtool") as target:
        if target is not None:
            unpack_package("prometheus", target)
    return str(cache_dir() / "promtool" / "usr" / "bin" / "promtool")


def test_alerts_and_dashboard_ask_for_metrics_that_a_worker_has() -> None:
    assert unknown(rule["expr"] for rule in rules()) == set()
    assert unknown(queries()) == set()


def test_the_dashboard_is_what_its_program_writes() -> None:
    assert (DEPLOY / "grafana" / "dashboard.json").read_text() == text()
    assert len({panel["id"] for panel in json.loads(text())["panels"]}) == len(dashboard()["panels"])


def test_prometheus_takes_the_alerts_and_fires_them_when_it_should(promtool: str) -> None:
    run_tool([promtool, "check", "rules", str(ALERTS)])
    run_tool([promtool, "test", "rules", str(ALERTS.with_name("alerts.test.yml"))])


def test_prometheus_understands_every_query_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    expressions = [one.replace("$__rate_interval", "5m").replace("$job", ".*") for one in queries()]
    recorded = [{"record": f"q{number}", "expr": one} for number, one in enumerate(expressions)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in run_tool([promtool, "check", "rules", str(path)])


def test_kubernetes_takes_the_manifests() -> None:
    for one in documents(DEPLOY / "kubernetes" / "worker.yaml"):
        kubernetes_validate.validate(one, "1.33", strict=True)


def test_a_pod_and_a_unit_have_time_to_drain() -> None:
    deployment, budget = documents(DEPLOY / "kubernetes" / "worker.yaml")
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > GRACE_S
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    unit = (DEPLOY / "hexa-worker.service").read_text()
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(stop_s) > GRACE_S


def test_what_keda_scales_is_the_deployment() -> None:
    deployment, _ = documents(DEPLOY / "kubernetes" / "worker.yaml")
    scaled = documents(DEPLOY / "kubernetes" / "keda.yaml")
    assert {one["spec"]["scaleTargetRef"]["name"] for one in scaled} == {deployment["metadata"]["name"]}
    assert [one["spec"]["triggers"][0]["type"] for one in scaled] == ["kafka", "nats-jetstream", "pulsar"]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "hexa-worker.service"
    text = (DEPLOY / "hexa-worker.service").read_text()
    unit.write_text(text.replace("/srv/orders/.venv/bin/hexa-worker", "/bin/true"))  # it looks whether it is there
    run_tool(["systemd-analyze", "verify", "--man=no", str(unit)])


def test_docker_understands_the_dockerfile() -> None:
    with building("dockerfile-utils-0.16") as target:
        if target is not None:
            run_tool(["npm", "install", "--silent", "--no-fund", "--no-audit", "dockerfile-utils@0.16"], cwd=target)
    lint = cache_dir() / "dockerfile-utils-0.16" / "node_modules" / ".bin" / "dockerfile-utils"
    found = subprocess.run([lint, "lint", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
    assert shutil.which("node")

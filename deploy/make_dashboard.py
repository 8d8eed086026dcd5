"""Writes grafana/dashboard.json: ``python deploy/make_dashboard.py``."""

import json
from pathlib import Path
from typing import Any, NamedTuple

BY_ACTION = "sum by (messaging_action_name)"
RATE = "[$__rate_interval]"
WHERE = '{job=~"$job"}'


class Panel(NamedTuple):
    """One chart: its title, its unit, and what each line is called and asks for."""

    title: str
    unit: str
    lines: dict[str, str]


def _quantile(quantile: float) -> str:
    buckets = f"rate(event_consume_duration_seconds_bucket{WHERE}{RATE})"
    return f"histogram_quantile({quantile}, sum by (le, messaging_action_name) ({buckets}))"


PANELS = [
    Panel("Received", "ops", {"{{messaging_action_name}}": f"{BY_ACTION} (rate(received_events_total{WHERE}{RATE}))"}),
    Panel(
        "Settled",
        "ops",
        {"{{settlement}}": f"sum by (settlement) (rate(hexa_worker_settled_events_total{WHERE}{RATE}))"},
    ),
    Panel(
        "Failures",
        "ops",
        {
            "{{messaging_action_name}} {{reason}}": "sum by (messaging_action_name, reason) "
            f"(rate(hexa_worker_failures_total{WHERE}{RATE}))"
        },
    ),
    Panel(
        "Handler time",
        "s",
        {"p50 {{messaging_action_name}}": _quantile(0.5), "p99 {{messaging_action_name}}": _quantile(0.99)},
    ),
    Panel(
        "Mailbox fill",
        "percentunit",
        {
            "{{messaging_action_name}}": f"{BY_ACTION} (hexa_worker_mailbox_deliveries{WHERE}) / "
            f"{BY_ACTION} (hexa_worker_mailbox_limit{WHERE})"
        },
    ),
    Panel("Running", "short", {"{{messaging_action_name}}": f"{BY_ACTION} (hexa_worker_running_deliveries{WHERE})"}),
    Panel(
        "Kept back",
        "short",
        {
            "parked {{messaging_action_name}}": f"{BY_ACTION} (hexa_worker_parked_deliveries{WHERE})",
            "keys that wait {{messaging_action_name}}": f"{BY_ACTION} (hexa_worker_waiting_keys{WHERE})",
        },
    ),
    Panel(
        "Processes",
        "short",
        {
            "wanted": f"sum(hexa_worker_processes{WHERE})",
            "ready": f"sum(hexa_worker_process_ready{WHERE})",
            "suspects": f"sum(hexa_worker_suspects{WHERE})",
        },
    ),
    Panel(
        "Restarts",
        "short",
        {
            "processes": f"sum(increase(hexa_worker_process_restarts_total{WHERE}{RATE}))",
            "subscriptions": f"sum(increase(hexa_worker_subscription_restarts_total{WHERE}{RATE}))",
        },
    ),
    Panel(
        "Outbox",
        "short",
        {
            "pending": f"max(hexa_worker_outbox_pending_events{WHERE})",
            "parked": f"max(hexa_worker_outbox_parked_events{WHERE})",
            "sent a second": f"sum(rate(hexa_worker_outbox_relayed_events_total{WHERE}{RATE}))",
        },
    ),
]


def dashboard() -> dict[str, Any]:
    """The whole dashboard, for the import of Grafana 10 and newer."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "title": "hexa-worker",
        "uid": "hexa-worker",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "job",
                    "type": "query",
                    "datasource": source,
                    "query": "label_values(hexa_worker_processes, job)",
                    "multi": True,
                    "includeAll": True,
                    "refresh": 2,
                },
            ]
        },
        "panels": [_panel(number, one, source) for number, one in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"h": 8, "w": 12, "x": number % 2 * 12, "y": number // 2 * 8},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + line), "expr": query, "legendFormat": name, "datasource": source}
            for line, (name, query) in enumerate(panel.lines.items())
        ],
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "grafana" / "dashboard.json").write_text(text())

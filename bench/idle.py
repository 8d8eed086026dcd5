"""What an idle worker with 10 subscriptions and 4 retry channels each costs on a broker, by the command line."""

import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from bench.embedded import start
from bench.figures import Figure

SETTLE_S = 6.0
WATCH_S = 8.0
HANDLERS = """
from hexa_worker import subscribe

@subscribe("CHANNEL-NUMBER", action="NAME-NUMBER")
async def handle_NUMBER(order: dict) -> None:
    pass
"""


def measure(broker: str) -> list[Figure]:
    """CPU, memory and connections of one process; the connections with one subscription beside those with ten.

    Args:
        broker: the lines of the ``[broker]`` table.
    """
    _, _, few = _watch(broker, 1)
    share, mib, many = _watch(broker, 10)
    return [
        Figure(name="idle, 10 x 4 retry channels", value=f"{share:.2f} % of a core", bar="< 2 %", met=share < 2),
        Figure(name="idle, memory of the process (RSS)", value=f"{mib:.1f} MiB", bar="<= 70 MiB", met=mib <= 70),
        Figure(
            name="idle, connections with 10 subscriptions",
            value=str(many),
            raw=f"{few} with 1 subscription",
            bar="do not grow",
            met=many <= few,
        ),
    ]


def _watch(broker: str, subscriptions: int) -> tuple[float, float, int]:
    name = f"idle-{uuid.uuid4().hex[:8]}"
    with TemporaryDirectory() as folder:
        path = Path(folder)
        texts = [
            HANDLERS.replace("CHANNEL", name).replace("NAME", name).replace("NUMBER", str(number))
            for number in range(subscriptions)
        ]
        (path / "h.py").write_text("".join(texts))
        (path / "worker.toml").write_text(f'[worker]\nname = "bench"\nhandlers = ["h"]\n[broker]\n{broker}\n')
        worker = start(path, "run")
        try:
            time.sleep(SETTLE_S)
            return _cost(worker)
        finally:
            worker.terminate()
            worker.wait()


def _cost(worker: psutil.Popen) -> tuple[float, float, int]:
    if worker.poll() is not None:
        raise RuntimeError(f"the worker ended with {worker.returncode}")
    busiest = max((worker, *worker.children()), key=lambda process: process.memory_info().rss)
    before = sum(busiest.cpu_times()[:2])
    time.sleep(WATCH_S)
    share = (sum(busiest.cpu_times()[:2]) - before) / WATCH_S * 100
    connections = [one for one in busiest.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
    return share, busiest.memory_info().rss / 2**20, len(connections)

"""A worker whose handlers act in `ctx.transaction`: every event comes three times, and its processes die."""

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.project import Project
from tests.outbox.stage import Place

WORKER = """
[worker]
name = "shop"
handlers = ["h"]
process_restart = {{ max_restarts = 1000, window_s = 60, initial_delay_s = 0.05, maximum_delay_s = 0.1 }}
maximum_crashes = 1000
[broker]
driver = "embedded"
path = "var/hexa.db"
[subscriptions.pay.retry]
initial_interval_s = 0.05
maximum_retries = 1000
[outbox]
url = "{url}"
"""
HANDLERS = """
import os
import random
import signal
import threading

import {library}

from hexa_worker import Context, Event, subscribe

DEATHS = float(os.environ.get("DEATHS", "0"))
local = threading.local()


def connection():
    if not hasattr(local, "connection"):
        local.connection = {connect}
    return local.connection


@subscribe("orders", action="pay", concurrency=4)
def pay(order: dict, ctx: Context) -> None:
    chance = random.random()
    mine = connection()
    with ctx.transaction(mine):
        mine.execute(f"INSERT INTO effects VALUES ('{{order['id']}}')")
        ctx.outbox(mine).emit_sync(Event(channel="paid", payload=order))
        if chance < 0.1:
            raise ValueError("not yet")
        if chance < 0.1 + DEATHS:
            os.kill(os.getpid(), signal.SIGKILL)
    if chance < 0.2:
        raise ValueError("after the commit")
    if chance < 0.2 + DEATHS:
        os.kill(os.getpid(), signal.SIGKILL)


@subscribe("paid", action="tell")
async def tell(order: dict, ctx: Context) -> None:
    with open("told.txt", "a") as file:
        file.write(f"{{order['id']}}\\n")
"""


def prepare(place: Place, count: int) -> None:
    """The worker's files, the table of effects, and `count` events, each emitted three times."""
    setup = place.own_connection()
    setup.execute("CREATE TABLE effects (event text)")
    setup.commit()
    setup.close()
    folder = place.config.folder
    connect = 'sqlite3.connect("shop.db", timeout=20)'
    if not place.sqlite:
        connect = f'psycopg.connect("{place.options.url.reveal()}")'
    handlers = HANDLERS.format(library="sqlite3" if place.sqlite else "psycopg", connect=connect)
    project = Project(folder).write(WORKER.format(url=place.options.url.reveal()), handlers)
    lines = [f'{{"channel": "orders", "payload": {{"id": "{n:06}"}}, "id": "e{n:06}"}}' for n in range(count)] * 3
    (folder / "orders.jsonl").write_text("\n".join(lines) + "\n")
    project("emit", "--file", "orders.jsonl")


def run_worker(place: Place, *, deaths: float, within_s: float) -> None:
    """Run it until it is idle; each handler kills its process with a chance of `deaths`, twice."""
    project = Project(place.config.folder)
    done = subprocess.run(
        [sys.executable, "-m", "hexa_worker", "run", "--until-idle", "--processes", "2"],
        cwd=place.config.folder,
        env=project.environment() | {"PYTHONPATH": os.pathsep.join([str(Path.cwd())]), "DEATHS": str(deaths)},
        capture_output=True,
        timeout=within_s,
        check=False,
    )
    grave = [line for line in done.stderr.decode().splitlines() if '"level":"info"' not in line]
    assert done.returncode == 0, f"exit code {done.returncode}\n" + "\n".join(grave[-20:])


def effects(place: Place) -> list[str]:
    """Every effect that was committed, sorted."""
    connection = place.own_connection()
    found = [row[0] for row in connection.execute("SELECT event FROM effects ORDER BY event")]
    connection.close()
    return found

"""What docs/applications.md shows was tried, each example in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "applications.md").read_text(encoding="utf-8")
EXAMPLES = {name: text for text, name in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", PAGE, re.DOTALL)}
WORKER = 'worker = { name = "shop", handlers = ["orders"] }\nbroker = { driver = "embedded", path = "hexa.db" }\n'
HANDLERS = """
from hexa_worker import subscribe

@subscribe("orders.created")
async def note(order: dict) -> None:
    with open("handled.txt", "a") as file:
        file.write(f"{order['id']}\\n")
"""
ANSWERS = """
def judge(post):
    import sqlite3
    from contextlib import closing
    status = 503
    while status == 503:  # as a client does, on a machine that is slow just now
        status, answer = post({"id": 1, "amount": 2.5})
    assert status == 202 and answer["event"], (status, answer)
    with closing(sqlite3.connect("hexa.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # the broker takes nothing until this ends
        status, answer = post({"id": 2, "amount": 2.5})
        assert status == 503, (status, answer)
"""
TRIES = {
    "fastapi_app.py": """
from starlette.testclient import TestClient
from fastapi_app import app
with TestClient(app) as client:
    def post(order):
        answer = client.post("/orders", json=order, headers={"x-request-id": "r-1"})
        return answer.status_code, answer.json()
    judge(post)
    assert client.post("/orders", json={}).status_code == 422
""",
    "starlette_app.py": """
from starlette.testclient import TestClient
from starlette_app import app
with TestClient(app) as client:
    def post(order):
        answer = client.post("/orders", json=order)
        return answer.status_code, answer.json()
    judge(post)
""",
    "django_views.py": """
import json
from django.conf import settings
settings.configure(DEBUG=True)
from django.test import RequestFactory
from django_views import create
def post(order):
    answer = create(RequestFactory().post("/orders", json.dumps(order), content_type="application/json"))
    return answer.status_code, json.loads(answer.content)
judge(post)
""",
    "app_with_worker.py": """
import time
from pathlib import Path
from starlette.testclient import TestClient
from app_with_worker import app
with TestClient(app) as client:
    deadline = time.monotonic() + 60
    while client.get("/ready").status_code != 200:
        assert time.monotonic() < deadline
    assert client.get("/ready").json() == {"note": "running"}
    assert client.post("/orders", json={"id": 7}).status_code == 202
    while not Path("handled.txt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
assert Path("handled.txt").read_text() == "7\\n"
""",
}


def python(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "worker.toml").write_text(WORKER)
    (tmp_path / "orders.py").write_text(HANDLERS)
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", sorted(TRIES))
def test_an_application_of_the_page_works(folder: Path, name: str) -> None:
    (folder / "try_it.py").write_text(ANSWERS + TRIES[name])
    python(folder, "try_it.py")


def test_the_scripts_of_the_page_emit_and_handle(folder: Path) -> None:
    assert python(folder, "script.py") == "3 emitted\n"
    python(folder, "worker.py")
    assert sorted((folder / "handled.txt").read_text().split()) == ["0", "1", "2"]


def test_every_example_of_the_page_is_tried() -> None:
    assert EXAMPLES.keys() == TRIES.keys() | {"script.py", "worker.py"}

"""A user's project for the tests of the loader."""

import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from hexa_worker.config.load import load_config
from hexa_worker.errors import ConfigError
from hexa_worker.subscriptions.loader import load_plans
from hexa_worker.subscriptions.plan import Loaded, Plan

IMPORTS = "from typing import Any\nfrom hexa_worker import BatchContext, Context, Retries, lifespan, subscribe\n"


class Project:
    """A user's project in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("worker.toml", "[worker]\nname = 'w'\nhandlers = ['h']\n")

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text((IMPORTS if name.endswith(".py") else "") + dedent(text))

    def toml(self, text: str, handlers: str = "'h'") -> None:
        self.write("worker.toml", f"[worker]\nname = 'w'\nhandlers = [{handlers}]\n{dedent(text)}")

    def load(self) -> Loaded:
        return load_plans(load_config(self.folder / "worker.toml", {}))

    def plan(self) -> Plan:
        (plan,) = self.load().plans
        return plan

    def error(self) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load()
        return str(caught.value)


@contextmanager
def in_project(folder: Path) -> Iterator[Project]:
    """A project in the working folder, whose modules are forgotten at the end."""
    path, modules = list(sys.path), set(sys.modules)
    with chdir(folder):
        yield Project(folder)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


ONE = """
@subscribe("work", action="do")
async def do(e: dict, ctx: Context) -> None: ...
"""
IN_PLACE = """[subscriptions.do]
order_by = "key"
[subscriptions.do.retry]
order = "key"
"""

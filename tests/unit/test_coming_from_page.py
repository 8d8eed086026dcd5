"""The handlers that docs/coming-from.md ends with can be run."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from hexa_worker.testing import Harness

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
HANDLERS = re.findall(r"```python\n# after\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("source", HANDLERS, ids=("celery", "faststream", "taskiq", "dramatiq"))
def test_a_worker_takes_the_handler(source: str) -> None:
    module = ModuleType("after")
    exec(compile(source, PAGE.name, "exec"), vars(module))
    assert Harness([module]).idle

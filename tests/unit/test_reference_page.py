"""docs/reference.md is current, and has every public name."""

from pathlib import Path

import pytest

import hexa_worker
import hexa_worker.outbox
import hexa_worker.testing
from hexa_worker.testing.reference_page import reference_text

PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")


def test_the_committed_reference_is_current() -> None:
    assert reference_text() == PAGE, "run make docs"


@pytest.mark.parametrize("module", [hexa_worker, hexa_worker.testing, hexa_worker.outbox], ids=lambda one: one.__name__)
def test_every_public_name_is_there_with_words(module: object) -> None:
    for name in vars(module)["__all__"]:
        (entry,) = [one for one in PAGE.split("\n### ")[1:] if one.splitlines()[0] == name]
        words = entry.partition("\n## ")[0].split("```")[::2]
        assert any(line.strip() for text in words for line in text.splitlines()[1:]), f"{name} has no docstring"


def test_a_method_stands_without_self_and_with_what_it_inherits() -> None:
    context = next(one for one in PAGE.split("\n### ") if one.startswith("Context\n"))
    assert "`emit(channel: str, payload: Any = None" in context
    assert "- `extend(seconds: float) -> None`" in context
    assert "(self" not in PAGE

"""The page about drivers says what the drivers say."""

from pathlib import Path

from hexa_worker.testing.drivers_page import ALL, drivers_text


def test_the_committed_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "drivers.md"
    assert page.read_text(encoding="utf-8") == drivers_text(), "run: make docs"


def test_every_driver_has_its_column() -> None:
    assert [one.name for one in ALL] == ["memory", "embedded", "kafka", "nats", "pulsar"]

"""Outboxes of their own, in both databases."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.outbox.stage import Place, make_config, make_tables


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, unique_name: Callable[..., str]) -> str:
    """A database of its own."""
    server = request.getfixturevalue("postgres")
    name = unique_name("outbox").replace("-", "_")
    with psycopg.connect(server.address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server.address.rpartition('/')[0]}/{name}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An outbox with its tables, in one database after the other."""
    url = "sqlite:///shop.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    yield from _placed(url, tmp_path)


@pytest.fixture
def postgres_place(postgres_url: str, tmp_path: Path) -> Iterator[Place]:
    """An outbox with its tables, in PostgreSQL."""
    yield from _placed(postgres_url, tmp_path)


def _placed(url: str, folder: Path) -> Iterator[Place]:
    made = Place(make_config(url, folder))
    make_tables(made.config)
    yield made
    made.close()

"""The tables: what migrations make step by step is what a new database gets at once."""

import sqlite3

import pytest
from msgspec.structs import replace

from hexa_worker.errors import ConfigError
from hexa_worker.outbox.initialising import initialise
from hexa_worker.outbox.postgres import schema as postgres_schema
from hexa_worker.outbox.sqlite import schema
from tests.outbox.stage import Place


def made(steps: list[str]) -> list[tuple[str, str]]:
    connection = sqlite3.connect(":memory:")
    for step in steps:
        connection.executescript(step)
    return connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()


def test_a_renewed_outbox_is_the_same_as_a_new_one() -> None:
    for module in (schema, postgres_schema):
        assert list(module.MIGRATIONS) == list(range(1, module.VERSION + 1))
        assert module.ddl("hexa_outbox", module.VERSION) == ""
    new = made([schema.ddl("hexa_outbox")])
    for since in range(1, schema.VERSION):
        older = "".join(schema.MIGRATIONS[version].format(table="hexa_outbox") for version in range(1, since + 1))
        assert made([older, schema.ddl("hexa_outbox", since)]) == new


def test_a_reserved_word_is_no_name_of_a_table(place: Place) -> None:
    config = place.config
    for word in ("order", "select"):
        outbox = replace(place.options, table=word)
        with pytest.raises(ConfigError, match=f"{word} is a reserved word"):
            initialise(replace(config, file=replace(config.file, outbox=outbox)))
    initialise(replace(config, file=replace(config.file, outbox=replace(place.options, table="offers"))))


def test_tables_of_a_newer_version_are_refused(place: Place) -> None:
    connection = place.connect()
    if place.sqlite:
        connection.execute("UPDATE hexa_outbox_cursor SET version = 99")
    else:
        connection.execute("COMMENT ON TABLE hexa_outbox IS 'hexa-worker outbox, version 99'")
    connection.commit()
    with pytest.raises(ConfigError, match="version 99, this hexa-worker knows"):
        initialise(place.config)
    with pytest.raises(ConfigError, match="install a newer"):
        place.store()

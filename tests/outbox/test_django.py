"""Django's ``connection``, in a process of its own: its settings are the process's."""

import subprocess
import sys

import pytest

from hexa_worker.outbox.errors import OutboxError
from tests.outbox.stage import Place, fetch_all

PROGRAM = """
import sys
import django
from django.conf import settings
settings.configure(DATABASES={"default": %(database)r}, USE_TZ=True)
django.setup()
from django.db import connection, transaction
from hexa_worker import Duplicate, Event
from hexa_worker.outbox import Outbox
from hexa_worker.outbox.errors import OutboxError
from hexa_worker.subscriptions.transactions import Block
from hexa_worker.outbox.inbox import HandlerOutbox

ended = []
outbox = Outbox.from_config(sys.argv[1])
def emit(number, **more):
    outbox.emit_sync(connection, Event(channel="orders", payload=number, key="k"), **more)
with transaction.atomic():
    emit(1)
    try:
        with transaction.atomic():
            emit(2)
            raise ValueError
    except ValueError:
        pass
try:
    with transaction.atomic():
        emit(3)
        raise ValueError
except ValueError:
    pass
try:
    emit(4)
except OutboxError as error:
    assert "autocommit" in str(error), error
else:
    raise AssertionError("autocommit was not refused")
emit(5, autocommit=True)

inbox = HandlerOutbox(outbox)
for number, fails in ((6, True), (6, False), (7, False)):
    try:
        with inbox.transaction(connection, "do", "e", Block()):
            emit(number)
            if fails:
                raise ValueError
    except (ValueError, Duplicate) as error:
        ended.append(type(error).__name__)
assert ended == ["ValueError", "Duplicate"], ended
"""


def database(place: Place) -> dict[str, object]:
    path = place.options.sqlite_path(place.config.folder)
    if path is not None:
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
    host, _, name = place.options.url.reveal().partition("@")[2].partition("/")
    address, _, port = host.partition(":")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": "postgres",
        "HOST": address,
        "PORT": port,
    }


def test_events_share_the_fate_of_djangos_transactions(place: Place) -> None:
    store = place.store()
    program = PROGRAM % {"database": database(place)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(place.config.path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert fetch_all(store) == [1, 5, 6]


def test_a_database_that_can_have_no_outbox_is_named() -> None:
    from hexa_worker.outbox.connections import dialect_of

    with pytest.raises(OutboxError, match="mysql"):
        dialect_of("mysql")

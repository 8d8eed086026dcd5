"""Secrets are used, never shown."""

import copy
import pickle
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.config.check import Check
from hexa_worker.config.model import Table
from hexa_worker.config.references import References
from hexa_worker.config.secret import Secret, shown
from hexa_worker.core.scrubbing import scrub


class Login(Table, frozen=True):
    user: str
    password: Secret
    token: Secret | None = None
    port: int = 1
    api_key: int = 1


class Picky(Table, frozen=True):
    url: Secret | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.url is not None:
            raise ValueError("url must be better")
        if self.name:
            raise ValueError("name must be better")


def checked(data: object, tmp_path: Path, **environ: str) -> tuple[Login | None, str]:
    check = Check("w", References(tmp_path, environ))
    login: Login | None = check.table(data, Login)
    return login, "\n".join(str(one) for one in check.mistakes)


def test_a_secret_shows_stars_however_it_is_printed() -> None:
    secret = Secret("hunter2")
    for text in (str(secret), repr(secret), f"{secret}", f"{secret!r:>9}", repr({"a": secret})):
        assert "hunter2" not in text
    assert secret.reveal() == "hunter2"


def test_a_secret_is_not_pickled_or_encoded() -> None:
    for attempt in (pickle.dumps, copy.copy, msgspec.json.encode):
        with pytest.raises(TypeError) as caught:
            attempt(Secret("hunter2"))
        assert "hunter2" not in str(caught.value)


def test_equal_secrets_are_equal() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1


def test_a_secret_may_be_written_or_referenced(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("from-file\n")
    data = {"user": "u", "password": "${P}", "token": {"file": "t"}}
    login, mistakes = checked(data, tmp_path, P="from-environment")
    assert mistakes == ""
    assert login is not None
    assert login.token is not None
    assert (login.password.reveal(), login.token.reveal()) == ("from-environment", "from-file")
    assert "from-" not in repr(login)


@pytest.mark.parametrize(
    "data",
    [
        {"user": "u", "password": 123456789},
        {"user": "u", "password": ["123456789"]},
        {"user": "u", "password": "p", "passwrd": "123456789"},
        {"user": "u", "password": "p", "api_key": "123456789"},
        {"user": "u", "password": "123456789", "port": "x"},
        {"user": "u", "password": "123456789\x00"},
    ],
)
def test_no_error_shows_a_secret(tmp_path: Path, data: dict[str, object]) -> None:
    login, mistakes = checked(data, tmp_path)
    assert login is None
    assert mistakes
    assert "123456789" not in mistakes


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"url": "hunter2"}, "w: url: must be better, not ***"),
        ({"url": "${P}"}, "w: url: must be better, not ***"),
        ({"name": "${P}"}, 'w: name: must be better, not "${P}"'),
    ],
)
def test_a_tables_own_rules_show_no_secret_either(tmp_path: Path, data: dict[str, str], error: str) -> None:
    check = Check("w", References(tmp_path, {"P": "hunter2"}))
    assert check.table(data, Picky) is None
    assert [str(one) for one in check.mistakes] == [error]


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("redis://user:pw@host:1/2", "redis://***@host:1/2"),
        ("nats://token@host", "nats://***@host"),
        ("a redis://u:p@ss@h and kafka+ssl://x:y@z", "a redis://***@h and kafka+ssl://***@z"),
        ("redis://host/a@b", "redis://***@b"),  # a password may have a slash
        ("nats://u:p/w?x#y@h refused", "nats://***@h refused"),
        ("bad nats://u:p w@h: no", "bad nats://***@h: no"),
        ('at "nats://u:p"w@h"', 'at "nats://***@h"'),
        ("http://h:80/x by a@b", "http://h:80/x by a@b"),
        ("http://[::1]:80, by a@b", "http://[::1]:80, by a@b"),
        ("pulsar://h/?token=abc&x=1", "pulsar://h/?token=***&x=1"),
        ("host=h password='a b' user=u", "host=h password=*** user=u"),
        ("sslPassword=abc, user=u", "sslPassword=***, user=u"),
        ("tokens=5 secretary=x", "tokens=5 secretary=x"),
        ("someone@example.org", "someone@example.org"),
    ],
)
def test_user_info_of_urls_is_hidden(text: str, scrubbed: str) -> None:
    assert scrub(text) == scrubbed


@given(st.text(min_size=1, alphabet=st.characters(exclude_characters="\"'", exclude_categories=["Z", "C"])))
def test_no_password_survives_scrubbing(password: str) -> None:
    assert scrub(f"redis://user:{password}@host") == "redis://***@host"
    assert f":{password}@" not in shown(f"user:{password}@host")


@given(st.text(min_size=1, alphabet=st.characters(exclude_characters="\n", exclude_categories=["Cs"])))
def test_a_password_with_blanks_or_quotes_does_not_survive_either(password: str) -> None:
    text = scrub(f"cannot reach nats://user:x{password}@host")
    assert text == "cannot reach nats://***@host" or "@" in password


@pytest.mark.parametrize(
    "part", ["a.", "://", "@", "://a:b ", "://a:1", "password=", "password='", 'token="', "=", "http://u:p@h ", "x:y@"]
)
def test_a_megabyte_is_looked_through_in_a_moment(part: str) -> None:
    text = part * (1_000_000 // len(part)) + "://"
    began = time.process_time()
    scrub(text)
    shown(text)
    assert time.process_time() - began < 2.0  # 0.02 to 0.2 s; it was minutes


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_any_value_is_shown_on_one_short_printable_line(value: object) -> None:
    text = shown(value)
    assert text.isprintable()
    assert len(text) <= 1100

"""What worker.toml may say, and what is answered when it says something else."""

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from hexa_worker.config.kafka import Kafka
from hexa_worker.config.load import load_config, parse_config
from hexa_worker.config.model import Config, Embedded, File, Memory, Subscription
from hexa_worker.errors import ConfigError

HEAD = """
[worker]
name = "orders"
handlers = ["h"]
"""


def parsed(text: str, **environ: str) -> Config:
    return parse_config(HEAD + text, Path("worker.toml"), environ)


def refused(text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(text, **environ)
    return str(caught.value)


def test_a_driver_and_a_list_may_be_references_too() -> None:
    text = HEAD + '[broker]\ndriver = "${DRIVER:-embedded}"\n'
    assert isinstance(parse_config(text, Path("w"), {}).file.broker, Embedded)
    text += 'servers = "${SERVERS}"\n'
    broker = parse_config(text, Path("w"), {"DRIVER": "kafka", "SERVERS": "a:1, b:2,,${c}:3 "}).file.broker
    assert isinstance(broker, Kafka)
    assert broker.servers == ("a:1", "b:2", "${c}:3")


@pytest.mark.parametrize(
    ("servers", "told"),
    [
        ("", 'broker.servers: must be an array, separated by commas, not "${SERVERS}"'),
        (None, "broker.servers: environment variable SERVERS is not set"),
    ],
)
def test_a_list_that_a_reference_does_not_fill_is_named(servers: str | None, told: str) -> None:
    text = HEAD + '[broker]\ndriver = "kafka"\nservers = "${SERVERS}"\n'
    with pytest.raises(ConfigError) as caught:
        parse_config(text, Path("w"), {} if servers is None else {"SERVERS": servers})
    assert told in str(caught.value)


def test_the_smallest_file_gets_every_default() -> None:
    file = parsed("").file
    assert file.broker == Embedded()
    assert (file.worker.processes, file.worker.backend, file.subscriptions) == (1, "asyncio", {})


def test_a_key_of_a_restart_table_leaves_the_defaults_of_the_others() -> None:
    worker = parsed("[worker.restart]\nwindow_s = 9\n[worker.process_restart]\nwindow_s = 9").file.worker
    assert (worker.restart.window_s, worker.restart.max_restarts, worker.restart.maximum_delay_s) == (9, 5, 10)
    processes = worker.process_restart
    assert (processes.window_s, processes.max_restarts, processes.maximum_delay_s) == (9, 20, 2)


def test_a_loaded_file_knows_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worker.toml").write_text(HEAD)
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("worker.toml"))
    assert config.path == tmp_path / "worker.toml"
    assert config.folder == tmp_path


def test_a_linked_file_means_the_folder_of_the_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real.toml").write_text(HEAD)
    (tmp_path / "worker.toml").symlink_to(tmp_path / "elsewhere" / "real.toml")
    assert load_config(tmp_path / "worker.toml").folder == tmp_path


def test_subscriptions_keep_what_they_say() -> None:
    said = parsed('[subscriptions.check-order]\nmailbox = 10\norder_by = "key"\nretry.maximum_retries = 2\n')
    one = said.file.subscriptions["check-order"]
    assert (one.mailbox, one.order_by, one.retry.maximum, one.concurrency) == (10, "key", 2, None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("restart.window_s = 0", "worker.restart.window_s: must be a number above 0, not 0"),
        ("proceses = 3", "worker.proceses: unknown key (did you mean processes?)"),
        ("processes = 0", "worker.processes: must be an integer from 1 to 1024, not 0"),
        ("processes = true", "worker.processes: must be an integer from 1 to 1024, not true"),
        ("processes = 1.5", "worker.processes: must be an integer from 1 to 1024, not 1.5"),
        ('processes = "3"', 'worker.processes: must be an integer from 1 to 1024, not "3"'),
        ("processes = [1]", "worker.processes: must be an integer from 1 to 1024, not an array of 1"),
        ("shutdown_grace_s = -1", "worker.shutdown_grace_s: must be a number of at least 0, not -1"),
        ("shutdown_grace_s = nan", "worker.shutdown_grace_s: must be a number of at least 0, not nan"),
        ("shutdown_grace_s = inf", "worker.shutdown_grace_s: must be a number of at least 0, not inf"),
        ("maximum_crashes = 1", "worker.maximum_crashes: must be an integer of at least 2, not 1"),
        ("watchdog_s = 0", "worker.watchdog_s: must be a number above 0, not 0"),
        ('uvloop = "yes"', 'worker.uvloop: must be true or false, not "yes"'),
        ('backend = "tiro"', 'worker.backend: must be "asyncio" or "trio", not "tiro" (did you mean trio?)'),
        ("log = 3", "worker.log: must be a table, not 3"),
        ('state_dir = "a\\u0000b"', "worker.state_dir: holds a NUL character"),
        ("state_dir = 2020-01-01", "worker.state_dir: must be a string, not 2020-01-01"),
        ('[log]\nlevel = "debug"', "log: unknown key"),
        ("[broker]", "broker.driver: is missing (one of memory, embedded"),
        ('[broker]\ndriver = "embeded"', 'broker.driver: unknown driver "embeded" (did you mean embedded?)'),
        ("[broker]\ndriver = 3", "broker.driver: must be a string, not 3"),
        ('[broker]\ndriver = "memory"\npath = "x"', "broker.path: unknown key"),
        ('[broker]\ndriver = "kafka"\nserver = 1', "broker.server: unknown key (did you mean servers?)"),
        (
            '[broker]\ndriver = "kafka"\nheartbeat_s = 9',
            "broker.heartbeat_s: must be at most half of session_timeout_s, not 9",
        ),
        (
            "[subscriptions.a.kafka]\nmax_held = 0",
            "subscriptions.a.kafka.max_held: must be an integer of at least 1, not 0",
        ),
        ("broker = 3", "worker.broker: unknown key"),
        ("[subscriptions]\na = 1", "subscriptions.a: must be a table, not 1"),
        ('[subscriptions.a]\nchannels = ["x", 3]', "subscriptions.a.channels[1]: must be a non-empty string, not 3"),
        ("[subscriptions.a]\nchannels = []", "subscriptions.a.channels: must not be empty"),
        ('[subscriptions.a]\nchannel = ""', 'subscriptions.a.channel: must be a non-empty string, not ""'),
        ('[subscriptions."a b"]\nmailbox = 0', 'subscriptions."a b".mailbox: must be an integer of at least 1, not 0'),
        ('[subscriptions.a]\npattern = "("', "subscriptions.a.pattern: is not a regular expression"),
        ('[subscriptions.a]\nchannels = ["x", "x"]', 'subscriptions.a.channels: names "x" twice'),
        (
            '[subscriptions.a]\nchannel = "x"\npattern = "y"',
            "subscriptions.a: has channel and pattern (channel, channels",
        ),
        (
            "[subscriptions.a.retry]\nmaximum_retries = -1",
            "subscriptions.a.retry.maximum_retries: must be an integer from 0 to 1000, not -1",
        ),
        (
            "[subscriptions.a.retry]\nbackof = 1",
            "subscriptions.a.retry.backof: unknown key (did you mean backoff_coefficient?)",
        ),
        ('[subscriptions.a]\ngroup = "a\\n"', "subscriptions.a.group: must be a name of up to 200 letters"),
    ],
)
def test_a_mistake_is_named_with_its_key_path_value_and_what_is_allowed(text: str, error: str) -> None:
    assert f"worker.toml: {error}" in refused(text)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("subscriptions.a.retry.initial_interval_s", "-1", "a number of at least 0"),
        ("subscriptions.a.retry.initial_interval_s", "nan", "a number of at least 0"),
        ("subscriptions.a.retry.backoff_coefficient", "0.5", "a number of at least 1"),
        ("subscriptions.a.retry.backoff_coefficient", "inf", "a number of at least 1"),
        ("subscriptions.a.retry.maximum_interval_s", "-0.1", "a number of at least 0"),
        ("subscriptions.a.retry.maximum_interval_s", "inf", "a number of at least 0"),
        ("subscriptions.a.retry.maximum_retries", "1001", "an integer from 0 to 1000"),
        ("subscriptions.a.retry.maximum_attempts", "1001", "an integer from 0 to 1000"),
        ("subscriptions.a.retry.retry_channels_count", "-1", "an integer from 0 to 1000"),
        ("subscriptions.a.retry.jitter", "1.5", "a number from 0 to 1"),
        ("worker.restart.max_restarts", "1001", "an integer from 0 to 1000"),
        ("worker.restart.window_s", "inf", "a number above 0"),
        ("worker.process_restart.max_restarts", "-1", "an integer from 0 to 1000"),
        ("worker.process_restart.initial_delay_s", "-1", "a number of at least 0"),
        ("worker.process_restart.maximum_delay_s", "nan", "a number of at least 0"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_its_key(key: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f'worker.name = "w"\nworker.handlers = ["h"]\n{key} = {value}', Path("worker.toml"), {})
    assert str(caught.value) == f"worker.toml: {key}: must be {allowed}, not {value}"


OLD_NAMES = [("maximum_attempts", "maximum_retries"), ("retry_topics_count", "retry_channels_count")]


@pytest.mark.parametrize(("old", "new"), OLD_NAMES)
def test_an_old_name_of_a_key_is_understood_and_told_once(old: str, new: str) -> None:
    config = parsed(f"[subscriptions.a.retry]\n{old} = 7\n[subscriptions.b.retry]\n{old} = 8\n")
    assert [one.retry.stated()[new] for one in config.file.subscriptions.values()] == [7, 8]
    places = "subscriptions.a.retry, subscriptions.b.retry"
    told = f"worker.toml: {old} is called {new} now, the old name still works: rename it in {places}"
    assert config.warnings == (told,)


def test_the_outbox_says_retries_too() -> None:
    config = parsed('[outbox]\nurl = "sqlite:///o.db"\nmaximum_attempts = 7\n')
    assert config.file.outbox is not None
    assert config.file.outbox.maximum_retries == 7
    assert config.warnings == (
        "worker.toml: maximum_attempts is called maximum_retries now, the old name still works: rename it in outbox",
    )


@pytest.mark.parametrize(("old", "new"), OLD_NAMES)
def test_a_key_is_refused_under_its_old_and_its_present_name_at_once(old: str, new: str) -> None:
    for first, second in ((old, new), (new, old)):
        text = refused(f"[subscriptions.a.retry]\n{first} = 1\n{second} = 1")
        told = f"subscriptions.a.retry.{old}: is the old name of {new}, which is given too (leave it out)"
        assert text == f"worker.toml: {told}"


def test_a_wrong_value_is_shown_at_the_name_that_was_written() -> None:
    text = refused("[subscriptions.a.retry]\nmaximum_attempts = true")
    assert "subscriptions.a.retry.maximum_attempts: must be an integer" in text


def test_present_names_are_told_of_nothing() -> None:
    assert parsed("[subscriptions.a.retry]\nmaximum_retries = 7\nretry_channels_count = 8").warnings == ()


def every_key() -> Iterator[tuple[str, str]]:
    """Each table of worker.toml as a dotted key, and each key in it."""

    def walk(table: str, struct: Any, driver: str = "") -> Iterator[tuple[str, str]]:
        for field in inspect.type_info(struct).fields:  # type: ignore[attr-defined]  # of a struct
            kinds = [field.type, *getattr(field.type, "types", ())]
            tables = [one for one in kinds if isinstance(one, inspect.StructType)]
            dotted = f"{table}.{field.encode_name}".lstrip(".")
            if field.name == "subscriptions":
                yield from walk("subscriptions.a", Subscription)
            elif field.name == "broker":
                for one in tables:
                    yield from walk("broker", one.cls, f'broker.driver = "{one.tag}"\n')
            elif tables:
                yield from walk(dotted, tables[0].cls, driver)
            yield driver, dotted

    return walk("", File)


@pytest.mark.parametrize(("driver", "key"), sorted(set(every_key())))
def test_every_key_is_named_when_its_value_is_of_no_kind_that_it_takes(driver: str, key: str) -> None:
    said = {"worker.name": 'worker.name = "w"\n', "worker.handlers": 'worker.handlers = ["h"]\n'}
    said.pop(key, None)
    rest = "" if key in ("worker", "broker") else "".join(said.values())
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{rest}{driver if key != 'broker' else ''}{key} = 2020-01-01\n", Path("worker.toml"), {})
    assert re.search(
        rf"(?m)(worker\.toml: |^ *){re.escape(key)}: must be .*, not (2020-01-01|\*{{3}})", str(caught.value)
    )


def test_every_mistake_is_reported_at_once() -> None:
    text = refused('procesess = 1\nbackend = "x"\n[subscriptions.a]\nmailbox = 0\n[subscriptions.b]\nmailbox = 0')
    assert text.startswith("worker.toml: 4 mistakes\n")
    assert text.count("\n  ") == 4


def test_missing_keys_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("[worker]\nhandlers = []", Path("worker.toml"), {})
    assert "worker.name: is missing (it must be a name of up to 200" in str(caught.value)
    assert "worker.handlers: must not be empty" in str(caught.value)


def test_an_unknown_key_without_a_likeness_gets_the_list_of_keys() -> None:
    assert "known are level, format, repeat_s" in refused("[worker.log]\nzzz = 1")


# References


def test_environment_references_are_replaced_wherever_a_string_is() -> None:
    text = 'state_dir = "${BASE}/x"\n[subscriptions.a]\nchannels = ["${PREFIX:-dev}.orders", "$${kept}"]'
    file = parsed(text, BASE="/var").file
    assert file.worker.state_dir == "/var/x"
    assert file.subscriptions["a"].channels == ("dev.orders", "${kept}")


def test_a_reference_becomes_the_number_its_key_wants() -> None:
    worker = parsed(
        'processes = "${N}"\nuvloop = "${U:-false}"\nwatchdog_s = "${W}"\nbackend = "${B}"', N="4", W="2.5", B="trio"
    ).file.worker
    assert (worker.processes, worker.uvloop, worker.watchdog_s, worker.backend) == (4, False, 2.5, "trio")


def test_a_name_that_looks_like_a_number_stays_a_name() -> None:
    assert parse_config('[worker]\nname = "${N}"\nhandlers = ["h"]', Path("w"), {"N": "42"}).file.worker.name == "42"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('state_dir = "${NOPE}"', "worker.state_dir: environment variable NOPE is not set (set it, or write ${NOPE:-"),
        ('state_dir = "${}"', "worker.state_dir: malformed reference"),
        ('state_dir = "${a b}"', "worker.state_dir: malformed reference"),
        ('state_dir = "${BAD}"', "worker.state_dir: environment variable BAD is not UTF-8"),
        ('processes = "${TEXT}"', 'worker.processes: must be an integer from 1 to 1024, not "${TEXT}"'),
        ('backend = "${TEXT}"', 'worker.backend: must be "asyncio" or "trio", not "${TEXT}"'),
        ('[broker]\ndriver = "${TEXT}"', 'broker.driver: unknown driver "${TEXT}"'),
    ],
)
def test_what_a_reference_stood_for_is_never_shown(text: str, error: str) -> None:
    message = refused(text, TEXT="hunter2", BAD="\udcff")
    assert error in message
    assert "hunter2" not in message


def test_file_references_are_read_relative_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "place.txt").write_text("some/where\n")
    (tmp_path / "worker.toml").write_text(HEAD + '[broker]\ndriver = "embedded"\npath = { file = "${F}" }')
    broker = load_config(tmp_path / "worker.toml", {"F": "place.txt"}).file.broker
    assert isinstance(broker, Embedded)
    assert broker.path == "some/where"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, 'broker.path: file "f" does not exist'),
        (b"\xff\xfe", 'broker.path: file "f" is not UTF-8'),
        (b"x" * (1024 * 1024 + 1), 'broker.path: file "f" is larger than 1048576 bytes'),
    ],
)
def test_a_bad_file_reference_names_the_file(tmp_path: Path, content: bytes | None, error: str) -> None:
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    text = HEAD + '[broker]\ndriver = "embedded"\npath = { file = "f" }'
    with pytest.raises(ConfigError) as caught:
        parse_config(text, tmp_path / "worker.toml", {})
    assert error in str(caught.value)


# Files that are none


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file .hexa-worker init"):
        load_config(tmp_path / "worker.toml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder .did you mean .*worker.toml"):
        load_config(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "worker.toml")
    with pytest.raises(ConfigError, match="is not a regular file"):
        load_config(tmp_path / "worker.toml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    (tmp_path / "worker.toml").write_text(HEAD)
    (tmp_path / "worker.toml").chmod(stat.S_IWUSR)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_config(tmp_path / "worker.toml")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"[worker]\nname = \xff", "is not UTF-8: byte 0xff in line 2"),
        (
            b"[worker",
            "is not valid TOML: Expected ']' at the end of a table declaration at the end of the file, line 1",
        ),
        (b"[worker]\nname = = 3", "is not valid TOML: Invalid value at line 2, column 8"),
        (b"[worker]\nname = 'a'\nname = 'b'\n", "is not valid TOML: Cannot overwrite a value at line 3"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"1" * 5_000, "is not valid TOML"),
        (b"d = 2020-02-31", "is not valid TOML"),
        (b"", "worker: is missing"),
    ],
)
def test_bytes_that_are_no_toml_are_named_by_their_place(tmp_path: Path, content: bytes, error: str) -> None:
    (tmp_path / "worker.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "worker.toml")
    assert error in str(caught.value)
    assert str(tmp_path / "worker.toml") in str(caught.value)


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    (tmp_path / "worker.toml").write_bytes(b"\xef\xbb\xbf" + HEAD.replace("\n", "\r\n").encode())
    assert load_config(tmp_path / "worker.toml").file.worker.name == "orders"


@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_but_config_errors(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_config(path, {})


def test_a_file_of_many_subscriptions_is_loaded_quickly() -> None:
    text = "".join(f'[subscriptions.s{n}]\nchannel = "c{n}"\nmailbox = 5\n' for n in range(200))
    started = time.thread_time()
    assert len(parsed(text).file.subscriptions) == 200
    assert time.thread_time() - started < 1.0


def test_the_memory_broker_takes_no_keys() -> None:
    assert parsed('[broker]\ndriver = "memory"').file.broker == Memory()

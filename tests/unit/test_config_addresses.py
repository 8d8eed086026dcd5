"""An address whose login cannot be told apart is refused, and no error shows it."""

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexa_worker.config.addresses import is_ambiguous
from hexa_worker.config.load import load_config
from hexa_worker.errors import ConfigError

CANARY = "hunter2"
REFUSED = [
    'driver = "kafka"\nservers = ["ok:1", "u:hunter2@host:9092"]',
    'driver = "kafka"\nservers = ["SASL_SSL://u:hunter2@h:1"]',
    'driver = "kafka"\nservers = ["u:1 hunter2@h:1"]',
    'driver = "kafka"\nservers = ["host:9092/hunter2"]',
    'driver = "kafka"\nservers = "u:1 hunter2@h:1"',
    'driver = "nats"\nservers = ["nats://u:hunter2/w@h"]',
    'driver = "nats"\nservers = ["nats://h", "nats://u:1 hunter2@h"]',
    'driver = "nats"\nservers = ["u:hunter2@h:4222"]',
    'driver = "pulsar"\nurl = "pulsar://u:1 hunter2@h"',
    'driver = "pulsar"\nurl = "pulsar://u:hunter2@h:6650"',
    'driver = "pulsar"\nurl = "pulsar://h:6650/?token=hunter2"',
    'driver = "pulsar"\nadmin_url = "http://u:hunter2?x@h"',
    'driver = "embedded"\n[dedup]\nstore = "redis"\nurl = "redis://u:hunter2@ss@h:1/0"',
    'driver = "embedded"\n[dedup]\nstore = "redis"\nurl = "redis://u:hunter2 x@h"',
    'driver = "embedded"\n[lineage]\nstore = "postgres"\nurl = "postgresql://u:hunter2#x@h/d"',
    'driver = "embedded"\n[lineage]\nstore = "postgres"\nurl = "postgresql://u:hunter2/x@h/d"',
    'driver = "embedded"\n[outbox]\nurl = "postgresql://u:hunter2?x@h/d"',
]
TAKEN = [
    'driver = "kafka"\nservers = ["a:1", "[::1]:9092", "b"]',
    'driver = "nats"\nservers = ["nats://u:hunter2@h:4222", "tls://token@h", "h:4222", "wss://h:443"]',
    'driver = "pulsar"\nurl = "pulsar://a:6650,b:6650"\nadmin_url = "https://h:8443"',
    'driver = "embedded"\n[dedup]\nstore = "redis"\nurl = "redis://u:hunter%402@h:1/0?socket_timeout=1"',
    'driver = "embedded"\n[lineage]\nstore = "postgres"\nurl = "postgresql://u:p%2F@a:1,b:2/d?sslmode=require"',
]


def written(tmp_path: Path, broker: str) -> Path:
    path = tmp_path / "worker.toml"
    path.write_text(f'[worker]\nname = "a"\nhandlers = ["h"]\n[broker]\n{broker}\n')
    return path


@pytest.mark.parametrize("broker", REFUSED)
def test_an_ambiguous_address_is_refused_without_showing_it(tmp_path: Path, broker: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, broker))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("broker", TAKEN)
def test_an_address_that_can_be_read_is_taken(tmp_path: Path, broker: str) -> None:
    load_config(written(tmp_path, broker))


@given(st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])))
def test_every_password_can_be_written_in_percent(password: str) -> None:
    url = f"redis://user:{quote(password, safe='')}@host:6379/0"
    assert not is_ambiguous(url)
    assert unquote(urlsplit(url).password or "") == password


@given(st.text(alphabet="ab:@/?# \"'%", max_size=12))
def test_what_is_not_ambiguous_has_one_host(login: str) -> None:
    url = f"redis://{login}@host"
    if not is_ambiguous(url):
        assert urlsplit(url).hostname == "host"

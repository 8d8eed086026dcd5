"""What of this machine a worker would miss is said by `check` before it runs."""

import os
from pathlib import Path

import pytest

from hexa_worker.cli import main
from hexa_worker.cli.surroundings import look_around
from hexa_worker.config.load import load_config

CASES = [
    ('state_dir = "a-file"', "", "worker.state_dir"),
    ('state_dir = "a-file/below"', "", "worker.state_dir"),
    ('http = { host = "192.0.2.1", port = 0 }', "", "worker.http.host"),
    ("", 'path = "."', "broker.path"),
    ("", '[dedup]\nstore = "embedded"\npath = "."', "dedup.path"),
    ("", '[dedup]\nstore = "redis"\nurl = "rediss://h"\ntls = { ca_file = "nope" }', "dedup.tls.ca_file"),
]


def written(tmp_path: Path, worker: str, broker: str, driver: str = "embedded") -> Path:
    (tmp_path / "a-file").touch()
    (tmp_path / "h.py").write_text("from hexa_worker import subscribe\n@subscribe('w')\nasync def do(e: dict): ...\n")
    path = tmp_path / "worker.toml"
    path.write_text(f'[worker]\nname = "a"\nhandlers = ["h"]\n{worker}\n[broker]\ndriver = "{driver}"\n{broker}\n')
    return path


@pytest.mark.parametrize(("worker", "broker", "key"), CASES)
def test_what_would_end_a_worker_is_named_by_its_key(tmp_path: Path, worker: str, broker: str, key: str) -> None:
    [missing], without = look_around(load_config(written(tmp_path, worker, broker)))
    assert missing.startswith(f"{key}: ")
    assert without == []


@pytest.mark.parametrize(
    ("driver", "broker", "key"),
    [
        ("nats", 'creds_file = "nope"', "broker.creds_file"),
        ("kafka", '[broker.sasl]\nmechanism = "OAUTHBEARER"\ntoken_file = "nope"', "broker.sasl.token_file"),
        ("pulsar", '[broker.tls]\nca_file = "nope"', "broker.tls.ca_file"),
    ],
)
def test_a_file_of_a_login_that_cannot_be_read_is_named(tmp_path: Path, driver: str, broker: str, key: str) -> None:
    [missing], _ = look_around(load_config(written(tmp_path, "", broker, driver)))
    assert missing.startswith(f"{key}: ")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, 'state_dir = "closed/below"', "")
    (tmp_path / "closed").mkdir(mode=0o500)
    [missing], _ = look_around(load_config(path))
    assert "may not write" in missing


def test_a_worker_does_without_its_lineage(tmp_path: Path) -> None:
    missing, [without] = look_around(load_config(written(tmp_path, "", '[lineage]\npath = "."')))
    assert missing == []
    assert without.startswith("lineage.path: ")


def test_a_fresh_project_misses_nothing_and_nothing_is_made(tmp_path: Path) -> None:
    path = written(tmp_path, 'state_dir = "new/folder"\nhttp = { port = 0 }', 'path = "other/new.db"')
    assert look_around(load_config(path)) == ([], [])
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "other").exists()


def test_check_warns_and_with_connect_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, 'state_dir = "a-file"', "")
    assert main(["check", str(path)]) == 0
    assert "warning: worker.state_dir: " in capsys.readouterr().err
    assert main(["check", str(path), "--connect"]) == 2
    assert "1 problem on this machine: worker.state_dir" in capsys.readouterr().err

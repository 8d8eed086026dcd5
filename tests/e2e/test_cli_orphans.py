"""A subscription gets another name: what it leaves behind is not forgotten in silence."""

from tests.e2e.project import HANDLERS, Project


def test_retries_and_dead_letters_that_nobody_reads_any_more_are_named(project: Project) -> None:
    project.write()
    project.emit({"id": 1, "fail": True})
    project.drain()
    assert len(project.json("dlq", "list")) == 1
    assert "warning" not in project("check").stderr
    project.write(handlers=HANDLERS.replace('"work", action="do"', '"work", action="renamed"'), worker=WORKER)
    said = "nobody reads the retries and dead letters of 'do' any more (do.retry.N, do.dlq)"
    for command in (("check",), ("check", "--connect"), ("lag",), ("dlq", "list"), ("run", "--until-idle")):
        assert project(*command).stderr.count(said) == 1, command
    project.write()
    assert "'renamed'" in project("check").stderr


def test_what_the_file_keeps_for_a_removed_subscription_is_said_and_can_be_dropped(project: Project) -> None:
    project.write()
    project.emit({"id": 1})
    project.drain()
    project.write(handlers=HANDLERS.replace('"work", action="do"', '"work", action="renamed"'), worker=WORKER)
    project.emit({"id": 2})
    said = "keeps 1 events for group 'do'"
    assert said in project("lag").stderr
    assert "remove that first" in project("forget", "renamed", code=2).stderr
    assert "forgot do" in project("forget", "do").stdout
    assert project("forget").stdout == ""


WORKER = """
[worker]
name = "sample"
handlers = ["h"]

[broker]
driver = "embedded"
path = "var/hexa.db"
"""

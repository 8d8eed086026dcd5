"""Modules in, plans out: what is merged."""

import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import msgspec
import pytest

from hexa_worker.config.load import load_config
from hexa_worker.core.ordering import OrderBy
from hexa_worker.core.retry import RetryPolicy
from hexa_worker.drivers.opening import specs
from hexa_worker.subscriptions.loader import load_plans
from tests.unit.loader_project import ONE, Project, in_project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with in_project(tmp_path) as one:
        yield one


def test_a_bare_handler_gets_every_default(project: Project) -> None:
    project.write("h.py", ONE)
    plan = project.plan()
    assert (plan.action, plan.channels, plan.pattern, plan.group, plan.retry_base) == (
        "do",
        ("work",),
        None,
        "do",
        "do",
    )
    assert (plan.concurrency, plan.threads, plan.mailbox, plan.mailbox_bytes) == (16, 16, 2000, 64 * 1024 * 1024)
    assert (plan.timeout_s, plan.batch, plan.start, plan.order_by) == (60.0, 1, "earliest", OrderBy.NONE)
    assert plan.handler.where == "h.py:4 do"


def test_worker_toml_goes_over_the_decorator(project: Project) -> None:
    project.write(
        "h.py",
        """
        @subscribe("work", action="do", concurrency=3, order_by="key", timeout_s=5)
        def do(e: dict) -> None: ...
        """,
    )
    project.toml("[subscriptions.do]\nconcurrency = 7\ntimeout_s = 0\ngroup = 'g'\nretry_channel = 'r'\nthreads = 2")
    plan = project.plan()
    assert (plan.concurrency, plan.order_by, plan.timeout_s, plan.threads) == (7, OrderBy.KEY, None, 2)
    assert (plan.group, plan.retry_base, plan.route.retry_base) == ("g", "r", "r")


ALL_SAID = """
@subscribe("work", action="do", mailbox=50, start="latest", idempotency_key="payload:id", codec="msgpack",
           retry=Retries(maximum=2, initial_s=0.1, maximum_s=5, jitter=0.5))
def do(e: dict) -> None: ...
"""


def test_a_decorator_states_what_worker_toml_takes(project: Project) -> None:
    project.write("h.py", ALL_SAID)
    plan = project.plan()
    assert (plan.mailbox, plan.start, plan.settings["codec"].value) == (50, "latest", "msgpack")
    assert plan.handler.decode(msgspec.msgpack.encode({"a": 1})) == {"a": 1}
    assert plan.retry == RetryPolicy(
        maximum_retries=2, initial_interval_s=0.1, maximum_interval_s=5, jitter=0.5, backoff_coefficient=2
    )


def test_worker_toml_goes_over_the_decorators_retries_key_by_key(project: Project) -> None:
    project.write("h.py", ALL_SAID)
    project.toml("[subscriptions.do]\nstart = 'earliest'\n[subscriptions.do.retry]\nmaximum_retries = 4\njitter = 0")
    plan = project.plan()
    assert (plan.start, plan.mailbox) == ("earliest", 50)
    assert plan.retry == RetryPolicy(maximum_retries=4, initial_interval_s=0.1, maximum_interval_s=5, jitter=0)


CLASSES = """
class Refused(Exception):
    class Twice(Exception): ...

@subscribe("work", action="do", dead_letter_on=(ValueError, Refused), drop_on=(KeyError,))
def do(e: dict) -> None: ...
"""


def test_worker_toml_names_classes_of_errors_by_dots_and_goes_over_the_decorator(project: Project) -> None:
    project.write("h.py", CLASSES)
    rules = {cls.__qualname__: answer.value for cls, answer in project.plan().rules.items()}
    assert rules == {"ValueError": "dead_letter_on", "Refused": "dead_letter_on", "KeyError": "drop_on"}
    names = "['builtins.OSError', 'h.Refused.Twice', 'ValueError', 'hexa_worker.DecodeError']"
    project.toml(f"[subscriptions.do]\ndead_letter_on = ['h.Refused']\nretry_on = {names}")
    plan = project.plan()
    assert {cls.__qualname__: answer.value for cls, answer in plan.rules.items()} == {
        "OSError": "retry_on",
        "Refused.Twice": "retry_on",
        "ValueError": "retry_on",
        "DecodeError": "retry_on",
        "Refused": "dead_letter_on",
        "KeyError": "drop_on",
    }
    assert plan.route.rules is plan.rules
    assert plan.settings["drop_on"] == (("KeyError",), "@subscribe")
    assert plan.settings["dead_letter_on"] == (("h.Refused",), "worker.toml")


TYPES = """
@subscribe("orders", type="made", order_by="key", retry=Retries(maximum=1), timeout_s=5)
def made(e: dict) -> None: ...
@subscribe("orders", type="paid", action="book", retry=Retries(maximum=3))
def paid(e: list) -> None: ...
@subscribe("orders")
def audit(e: dict) -> None: ...
"""
CHANNEL = "[channels.orders]\ntype = 'header:event_type'\n"


def test_the_types_of_a_channel_share_one_group_and_one_is_for_unknown_types(project: Project) -> None:
    project.write("h.py", TYPES)
    project.toml(CHANNEL)
    loaded = project.load()
    plans = {plan.action: plan for plan in loaded.plans}
    assert {action: plan.type for action, plan in plans.items()} == {
        "made": "made",
        "book": "paid",
        "audit": None,
        "w.orders.unknown": "*",
    }
    assert {plan.group for action, plan in plans.items() if action != "audit"} == {"w.orders"}
    assert {plan.order_by for action, plan in plans.items() if action != "audit"} == {OrderBy.KEY}
    assert plans["book"].settings["order_by"] == ("key", "@subscribe")
    assert (plans["made"].timeout_s, plans["book"].timeout_s) == (5.0, 60.0)
    assert (plans["made"].retry.maximum_retries, plans["book"].retry.maximum_retries) == (1, 3)
    assert [(spec.action, spec.group, spec.retry_count) for spec in specs(loaded)] == [
        ("audit", "audit", 4),
        ("w.orders", "w.orders", 3),
    ]


def test_one_more_type_changes_nothing_about_the_group(project: Project) -> None:
    project.write("h.py", TYPES)
    project.toml(CHANNEL + "group = 'g'")
    before = [spec.group for spec in specs(project.load())]
    more = '@subscribe("orders", type="sent")\ndef sent(e: dict) -> None: ...\n@subscribe("orders", type="*")\n'
    project.write("h.py", TYPES + more + "def rest(e: dict) -> None: ...\n")
    del sys.modules["h"]
    loaded = project.load()
    assert {plan.type for plan in loaded.plans} == {None, "made", "paid", "sent", "*"}
    assert before == ["audit", "g"] == [spec.group for spec in specs(loaded)]


def test_a_plan_tells_where_each_of_its_settings_comes_from(project: Project) -> None:
    project.write("h.py", ALL_SAID)
    project.toml("[subscriptions.do]\ntimeout_s = 5\ngroup = 'g'\n[subscriptions.do.retry]\nmaximum_retries = 4")
    settings = project.plan().settings
    told = {key: settings[key] for key in ("mailbox", "timeout_s", "concurrency", "group", "channels")}
    assert told == {
        "mailbox": (50, "@subscribe"),
        "timeout_s": (5.0, "worker.toml"),
        "concurrency": (16, "default"),
        "group": ("g", "worker.toml"),
        "channels": (("work",), "@subscribe"),
    }
    assert settings["retry.maximum_retries"] == (4, "worker.toml")
    assert settings["retry.jitter"] == (0.5, "@subscribe")
    assert settings["retry.backoff_coefficient"] == (2.0, "default")


def test_a_channel_in_worker_toml_replaces_all_channels_of_the_decorator(project: Project) -> None:
    project.write("h.py", ONE.replace('"work"', '"a", "b"'))
    project.toml("[subscriptions.do]\npattern = 'x[.].*'")
    plan = project.plan()
    assert (plan.channels, plan.pattern) == ((), "x[.].*")


def test_how_many_keys_may_wait_leaves_half_of_the_mailbox_to_others(project: Project) -> None:
    project.write("h.py", ONE)
    toml = '[subscriptions.do]\norder_by = "key"\n{}[subscriptions.do.retry]\norder = "key"\n{}'
    for mailbox, limit, expected in (("", "", 100), ("mailbox = 30\n", "", 15), ("", "maximum_waiting_keys = 7", 7)):
        project.toml(toml.format(mailbox, limit))
        plan = project.plan()
        assert (plan.in_place, plan.retry.waiting_keys(plan.mailbox)) == (OrderBy.KEY, expected)
    project.toml("")
    assert project.plan().in_place is OrderBy.NONE


def test_a_batch_handler_is_planned(project: Project) -> None:
    project.write("h.py", '@subscribe("w", batch=10)\nasync def many(e: list[int], ctx: BatchContext) -> None: ...')
    project.toml("[subscriptions.many]\nbatch_wait_s = 2")
    plan = project.plan()
    assert (plan.batch, plan.batch_wait_s, plan.handler.batch, plan.handler.payload_type) == (10, 2.0, True, "int")


def test_plans_come_in_the_order_of_their_actions_and_disabled_ones_not_at_all(project: Project) -> None:
    project.write(
        "h.py",
        """
        @subscribe("w")
        async def zeta(e: Any) -> None: ...
        @subscribe("w")
        @subscribe("v", action="beta")
        async def alpha(e: Any) -> None: ...
        @subscribe("w")
        async def gone(e: Any) -> None: ...
        """,
    )
    project.toml("[subscriptions.gone]\nenabled = false")
    assert [plan.action for plan in project.load().plans] == ["alpha", "beta", "zeta"]


def test_re_exported_functions_count_once(project: Project) -> None:
    project.write("inner/one.py", ONE)
    project.write("inner/__init__.py", "from inner.one import do\nalias = do")
    project.toml("", handlers="'inner', 'inner.one'")
    assert project.plan().action == "do"


def test_only_named_modules_are_imported_and_a_star_names_all_of_a_package(project: Project) -> None:
    project.write("pkg/__init__.py", "")
    project.write("pkg/one.py", ONE)
    project.write("pkg/two.py", ONE.replace('"do"', '"two"'))
    project.toml("", handlers="'pkg.*'")
    assert [plan.action for plan in project.load().plans] == ["do", "two"]
    project.toml("", handlers="'pkg'")
    assert "no handlers in pkg" in project.error()


def test_a_second_project_in_one_process_gets_its_own_modules(project: Project, tmp_path: Path) -> None:
    project.write("h.py", ONE)
    project.load()
    other = Project(tmp_path / "other")
    other.write("worker.toml", "[worker]\nname = 'w'\nhandlers = ['h']\n")
    other.write("h.py", ONE.replace('"do"', '"else"'))
    assert other.plan().action == "else"
    assert project.plan().action == "do"


def test_the_folder_of_worker_toml_is_first_on_the_path(project: Project) -> None:
    project.write("h.py", "import sys\nFIRST = sys.path[0]\n" + ONE)
    assert project.plan().handler.function.__globals__["FIRST"] == str(project.folder)


def test_options_of_the_configured_driver_are_passed_on(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from hexa_worker.config.model import Subscription
    from hexa_worker.subscriptions import merge

    class WithOptions(Subscription, frozen=True):
        memory: dict[str, int] | None = None

    project.write("h.py", ONE)
    project.toml("[broker]\ndriver = 'memory'")
    config = load_config(project.folder / "worker.toml", {})
    changed = msgspec.structs.replace(config.file, subscriptions={"do": WithOptions(memory={"a": 1})})
    monkeypatch.setattr(merge, "Subscription", WithOptions)
    (plan,) = load_plans(msgspec.structs.replace(config, file=changed)).plans
    assert plan.options == {"a": 1}


def test_the_lifespan_is_ready_to_be_entered(project: Project) -> None:
    project.write("h.py", ONE + "@lifespan\nasync def life():\n    yield 'state'\n")
    lifespan = project.load().lifespan
    assert lifespan is not None

    async def enter() -> object:
        manager: AbstractAsyncContextManager[object] = lifespan()
        async with manager as state:
            return state

    assert anyio.run(enter) == "state"


def test_a_lifespan_may_be_a_context_manager_already(project: Project) -> None:
    project.write(
        "h.py",
        ONE + "import contextlib\n@lifespan\n@contextlib.asynccontextmanager\nasync def life():\n    yield 1\n",
    )
    lifespan = project.load().lifespan
    assert lifespan is not None
    assert hasattr(lifespan(), "__aenter__")


def test_middlewares_are_resolved_outermost_first(project: Project) -> None:
    project.write("h.py", "from m import near\n" + ONE.replace('"do"', '"do", middlewares=[near]'))
    body = "async def {}(e, ctx, call_next):\n    return await call_next(e, ctx)\n"
    project.write("m.py", "".join(body.format(name) for name in ("near", "middle", "far")))
    project.write(
        "worker.toml",
        "[worker]\nname='w'\nhandlers=['h']\nmiddlewares=['m:far']\n[subscriptions.do]\nmiddlewares=['m:middle']\n",
    )
    loaded = project.load()
    assert [getattr(one, "__name__", None) for one in loaded.middlewares] == ["far"]
    assert [getattr(one, "__name__", None) for one in loaded.plans[0].middlewares] == ["middle", "near"]


def test_odd_objects_in_a_module_do_no_harm(project: Project) -> None:
    odd = """
from unittest.mock import MagicMock, call
class Raising:
    def __getattr__(self, name): raise ZeroDivisionError
odd, odder, oddest = MagicMock(), Raising(), call
"""
    project.write("h.py", odd + ONE)
    assert project.plan().action == "do"

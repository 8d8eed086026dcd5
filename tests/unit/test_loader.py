"""Modules in, plans out: what is merged, and how every mistake is named."""

import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from textwrap import dedent

import anyio
import msgspec
import pytest

from hexa_worker.config.load import load_config
from hexa_worker.core.ordering import OrderBy
from hexa_worker.errors import ConfigError
from hexa_worker.handlers.loader import load_plans
from hexa_worker.handlers.plan import Loaded, Plan

IMPORTS = "from typing import Any\nfrom hexa_worker import BatchContext, Context, lifespan, subscribe\n"


class Project:
    """A user's project in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("worker.toml", "[worker]\nname = 'w'\nhandlers = ['h']\n")

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text((IMPORTS if name.endswith(".py") else "") + dedent(text))

    def toml(self, text: str, handlers: str = "'h'") -> None:
        self.write("worker.toml", f"[worker]\nname = 'w'\nhandlers = [{handlers}]\n{dedent(text)}")

    def load(self) -> Loaded:
        return load_plans(load_config(self.folder / "worker.toml", {}))

    def plan(self) -> Plan:
        (plan,) = self.load().plans
        return plan

    def error(self) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load()
        return str(caught.value)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield Project(tmp_path)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


ONE = """
@subscribe("work", action="do")
async def do(e: dict, ctx: Context) -> None: ...
"""
IN_PLACE = """[subscriptions.do]
order_by = "key"
[subscriptions.do.retry]
order = "key"
"""


# What is put together


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
    from hexa_worker.handlers import merge

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
    assert [one.__name__ for one in loaded.middlewares] == ["far"]  # type: ignore[attr-defined]
    assert [one.__name__ for one in loaded.plans[0].middlewares] == ["middle", "near"]  # type: ignore[attr-defined]


def test_odd_objects_in_a_module_do_no_harm(project: Project) -> None:
    odd = """
from unittest.mock import MagicMock, call
class Raising:
    def __getattr__(self, name): raise ZeroDivisionError
odd, odder, oddest = MagicMock(), Raising(), call
"""
    project.write("h.py", odd + ONE)
    assert project.plan().action == "do"


# Mistakes in modules


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("x = (\n", "h.py:3: module \"h\" cannot be imported: SyntaxError: '(' was never closed"),
        ("def f():\n    1 / 0\nf()\n", 'h.py:4: module "h" cannot be imported: ZeroDivisionError: division by zero'),
        ("import nowhere\n", "h.py:3: module \"h\" cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("from m import gone\n", "h.py:3: module \"h\" cannot be imported: ImportError: cannot import name 'gone'"),
        ("import sys; sys.exit(3)\n", 'h.py:3: module "h" cannot be imported: SystemExit: 3'),
        ("raise Exception\n", 'h.py:3: module "h" cannot be imported: Exception'),
        ("import m2\n", 'm2.py:3: module "h" cannot be imported: NameError'),
    ],
)
def test_an_error_in_a_users_module_is_named_by_its_line(project: Project, source: str, error: str) -> None:
    project.write("m.py", "")
    project.write("m2.py", "undefined\n")
    project.write("h.py", source)
    assert project.error().startswith(error)


@pytest.mark.parametrize(
    ("handlers", "error"),
    [
        ("'handlers.order'", 'there is no module "handlers.order" (did you mean handlers.orders?)'),
        ("'zzz'", 'there is no module "zzz" (in . there are handlers, handlers.orders)'),
        ("'handlers/orders.py'", '"handlers/orders.py" is not a module name (did you mean handlers.orders?)'),
        ("'a b'", '"a b" is not a module name (write it as in an import)'),
        ("'handlers.orders.*'", '"handlers.orders" is a module, not a package (write "handlers.orders")'),
        ("'handlers'", "no handlers in handlers (mark functions with @subscribe"),
    ],
)
def test_a_module_that_is_not_there_is_named_with_what_is(project: Project, handlers: str, error: str) -> None:
    project.write("handlers/__init__.py", "")
    project.write("handlers/orders.py", ONE)
    project.toml("", handlers=handlers)
    assert project.error().startswith(f"worker.toml: worker.handlers: {error}")


# Mistakes in subscriptions


@pytest.mark.parametrize(
    ("source", "toml", "error"),
    [
        (ONE, "[subscriptions.doo]", "worker.toml: subscriptions.doo: no handler has this action (did you mean do?)"),
        (
            ONE,
            "[subscriptions.zzz]",
            "worker.toml: subscriptions.zzz: no handler has this action (the handlers' actions are do)",
        ),
        (
            ONE.replace('"work", ', ""),
            "",
            'do has no channel (write @subscribe("channel"), or channel = "…" under [subscriptions.do])',
        ),
        (ONE, "[subscriptions.do]\nenabled = false", "worker.toml: every subscription is disabled"),
        (ONE + ONE, "", None),
        (
            ONE + ONE.replace("def do", "def redo"),
            "",
            'h.py:7 redo: a second handler with action "do"; the first is h.py:4 do (give one of them another name',
        ),
        (
            ONE.replace('"do"', '"d o"'),
            "",
            'h.py:4 do: action: must be a name of up to 200 letters, digits, dots, dashes and underscores, not "d o"',
        ),
        (
            ONE.replace('"do"', '"do", concurrency=0'),
            "",
            "h.py:4 do: concurrency: must be an integer from 1 to 10000, not 0",
        ),
        (
            ONE.replace('"do"', '"do", order_by="keys"'),
            "",
            'h.py:4 do: order_by: must be "channel", "key" or "none", not "keys" (did you',
        ),
        (
            ONE.replace('"do"', '"do", pattern="x"'),
            "",
            "h.py:4 do: has channels and pattern (channel, channels and pattern",
        ),
        (ONE.replace('"do"', '"do", batch_wait_s=1'), "", "h.py:4 do: batch_wait_s without batch"),
        (
            ONE,
            "[subscriptions.do]\nbatch_wait_s = 1",
            "worker.toml: subscriptions.do.batch_wait_s: batch_wait_s without batch",
        ),
        (
            ONE,
            "[subscriptions.do]\nthreads = 1",
            "worker.toml: subscriptions.do.threads: threads, but the handler is async",
        ),
        (
            ONE,
            '[subscriptions.do.retry]\norder = "key"',
            'worker.toml: subscriptions.do.retry.order: must be "free" while order_by is "none", not "key" (without',
        ),
        (
            ONE.replace('"do"', '"do", batch=5, order_by="key"').replace(
                "e: dict, ctx: Context", "e: list[dict], ctx: BatchContext"
            ),
            '[subscriptions.do.retry]\norder = "key"',
            'worker.toml: subscriptions.do.retry.order: must be "free" for a batch handler, not "key" (events of one',
        ),
        (
            ONE,
            "[subscriptions.do.retry]\nmaximum_waiting_keys = 5",
            'worker.toml: subscriptions.do.retry.maximum_waiting_keys: maximum_waiting_keys without order = "key"',
        ),
        (
            ONE,
            IN_PLACE.replace("\n", "\nmailbox = 50\n", 1) + "maximum_waiting_keys = 50",
            "worker.toml: subscriptions.do.retry.maximum_waiting_keys: must be less than mailbox (50), not 50 (what",
        ),
        (
            ONE,
            '[subscriptions.do.retry]\norder = "keys"',
            'worker.toml: subscriptions.do.retry.order: must be "free" or "key", not "keys"',
        ),
        (
            ONE,
            IN_PLACE + "maximum_waiting_keys = 0",
            "worker.toml: subscriptions.do.retry.maximum_waiting_keys: must be",
        ),
        (ONE, IN_PLACE.replace('"key"', '"channel"', 1), None),
        (
            ONE,
            "[subscriptions.do]\nbatch = 5",
            "h.py:4 do: batch is set, but its first parameter, e, is annotated dict",
        ),
        (ONE, "[subscriptions.do]\ncodec = 'raw'", 'h.py:4 do: codec "raw" hands over bytes or str, not dict'),
        (
            ONE + "@subscribe\nasync def bare(e: dict): ...\n",
            "",
            'h.py:6: module "h" cannot be imported: ConfigError: @subscribe without a channel: bare',
        ),
        ("class A:\n    @subscribe('x')\n    def f(self, e): ...\n", "", "h.py:4 A.f: a method is not a handler"),
        (
            "class A:\n    @staticmethod\n    @subscribe('x')\n    def f(e): ...\n",
            "",
            "h.py:4 A.f: a method is not a handler",
        ),
        (
            ONE + "@lifespan\nasync def a():\n    yield\n@lifespan\nasync def b():\n    yield\n",
            "",
            "h.py:9 b: a second lifespan; the first is h.py:6 a",
        ),
        (ONE + "@lifespan\nasync def a(x):\n    yield\n", "", "h.py:6 a: a lifespan takes no parameters"),
        (ONE + "@lifespan\nasync def a():\n    return 1\n", "", "h.py:6 a: a lifespan is an async generator function"),
        (ONE, "middlewares = ['m']", 'worker.toml: worker.middlewares: "m" is not of the form "module:function"'),
        (ONE, "middlewares = ['mm:f']", 'worker.toml: worker.middlewares: there is no module "mm"'),
        (ONE, "middlewares = ['h:doo']", 'worker.toml: worker.middlewares: module "h" has no "doo" (did you mean do?)'),
        (ONE, "middlewares = ['h:do']", "h.py:4 do: cannot be called as a middleware: too many positional arguments"),
        (ONE, "middlewares = ['h:lifespan']", "a middleware is an async function (write: async def middleware("),
        (
            ONE,
            "[subscriptions.do]\nmiddlewares = ['x']",
            'worker.toml: subscriptions.do.middlewares: "x" is not of the form',
        ),
    ],
)
def test_a_mistake_in_a_subscription_names_its_place(
    project: Project, source: str, toml: str, error: str | None
) -> None:
    project.write("h.py", source)
    project.toml(toml)
    if error is None:
        assert project.plan().action == "do"
    else:
        assert error in project.error()


def test_all_mistakes_of_the_subscriptions_come_at_once(project: Project) -> None:
    project.write("h.py", "@subscribe('x')\nasync def a(): ...\n@subscribe('x')\nasync def b(e: complex): ...\n")
    project.toml("[subscriptions.c]")
    text = project.error()
    assert text.startswith("worker.toml: 3 mistakes\n")
    assert all(place in text for place in ("subscriptions.c: ", "h.py:3 a: ", "h.py:5 b: "))


# Clashes

TWO = """
@subscribe("x")
async def a(e: Any) -> None: ...
@subscribe("x")
async def b(e: Any) -> None: ...
"""


@pytest.mark.parametrize(
    ("toml", "error"),
    [
        ("", None),
        ("[subscriptions.a]\ngroup = 'b'", "b and a read x in one group, b: each would get a part of it"),
        ("[subscriptions.a]\ngroup = 'b'\nchannel = 'y'", "b and a share retry channels: both are named after b"),
        ("[subscriptions.a]\ngroup = 'b'\nchannel = 'y'\nretry_channel = 'c'", None),
        ("[subscriptions.a]\nchannel = 'b.retry.1'", "a reads b.retry.1, which belongs to the retries of b"),
        ("[subscriptions.a]\nchannel = 'b.dlq'", None),
        ("[subscriptions.a]\nchannel = 'a.dlq'", "a reads a.dlq, which belongs to the retries of a"),
        ("[subscriptions.a]\nchannel = 'b.retry.5'", None),
        ("[subscriptions.a]\npattern = '.*'", "the pattern of a matches a.retry.1, which belongs to a"),
        (r"[subscriptions.a]" + "\npattern = '(?!.*\\.(retry\\.\\d+|dlq)$).*'", None),
    ],
)
def test_subscriptions_that_disturb_each_other_are_refused(project: Project, toml: str, error: str | None) -> None:
    project.write("h.py", TWO)
    project.toml(toml)
    if error is None:
        assert len(project.load().plans) == 2
    else:
        assert error in project.error()

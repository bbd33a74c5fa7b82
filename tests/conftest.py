"""Fixtures: the real command with a spool of its own, and a fake SQS."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.sqs import FakeSqs
from hypothesis import HealthCheck, settings
from support import Sqstee
from support.node import Node
from support.verb_server import keep_descriptions

# By default every run tests the same examples; --hypothesis-profile=explore draws new ones, and many more. There is no
# deadline: the time of an example depends on the load of the machine.
settings.register_profile("gate", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("gate"), derandomize=False, max_examples=2000)
settings.load_profile("gate")
keep_descriptions()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options for the length of the fault suite; the defaults suit `make test`."""
    parser.addoption("--fault-steps", type=int, default=150, help="steps of each random sequence of faults")
    parser.addoption("--fault-seeds", type=int, default=1, help="how many random sequences of faults")
    parser.addoption("--fault-kills", type=int, default=10, help="kills at random moments, of front and shipper each")
    parser.addoption("--benches", action="store_true", help="run the benches that take longer as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the longer benches unless --benches is given."""
    left_out = [] if config.getoption("--benches") else [item for item in items if item.get_closest_marker("bench")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """What the collection made stays to the end: without it a garbage collection takes a tenth of the time."""
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Pass the options above to the tests that have them as arguments."""
    if "fault_seed" in metafunc.fixturenames:
        metafunc.parametrize("fault_seed", range(metafunc.config.getoption("--fault-seeds")))
    for name in ("fault_steps", "fault_kills"):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [metafunc.config.getoption(f"--{name.replace('_', '-')}")])


@pytest.fixture
def sqstee(tmp_path: Path) -> Sqstee:
    """The installed command with nothing configured, and its spool in the test's own folder."""
    return Sqstee(tmp_path)


@pytest.fixture
def fake_sqs() -> Iterator[FakeSqs]:
    """A strict SQS in a process of its own, with a queue `q`."""
    with FakeSqs() as server:
        server.create_queue("q")
        yield server


@pytest.fixture
def node(sqstee: Sqstee, fake_sqs: FakeSqs) -> Node:
    """A node with nothing running."""
    return Node(sqstee, fake_sqs)


@pytest.fixture(autouse=True, scope="session")
def _signals_are_heard() -> None:
    """Restore the default signals: background jobs start with ^C and ^\\ ignored, nohup with hangups ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _bounded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that hangs: after five minutes; after ten if it is marked slow or fault.

    Each test collects its own garbage, so what it forgot to close is told there, not in whatever test happens to run
    when the collector does. What it leaves alive is not looked at again, which makes this a millisecond's work.
    """
    many = any(request.node.get_closest_marker(name) for name in ("fault", "slow"))

    def fail(number: int, frame: object) -> None:
        raise TimeoutError("the test takes too long")

    signal.signal(signal.SIGALRM, fail)
    signal.alarm(600 if many else 300)
    yield
    signal.alarm(0)
    gc.collect()
    gc.freeze()

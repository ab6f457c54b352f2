"""Fixtures of more than one package: a Ray of fixed size, and engines that need no model."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main
import typer.testing
from hypothesis import settings
from xdist.scheduler import LoadGroupScheduling
from xdist.workermanage import WorkerController

from tests.builders.s3 import ENVIRONMENT, FORBIDDEN, S3Server, serving_s3

if TYPE_CHECKING:
    from tests.builders.command import TinyRun

# As the Makefile: containers often forbid bytecode, and every process would then compile and rewrite all modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Idle threads of one process must not spin on the cores of another: read by libgomp when torch loads it. With two
# processes on two cores, the engines' tests took twice the CPU time otherwise.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# NumPy's products as well: a thread a core in each process is twice the threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Ray would give its workers what other processes leave: on a busy machine a shard of one second takes minutes.
os.environ.setdefault("RAY_worker_niceness", "0")

# pytest-xdist sets it in its processes, and a console that finds it when it is made keeps that width for good.
os.environ.pop("COLUMNS", None)

# Collection makes a million objects that live to the end. The garbage collector passes over them in half a second, and
# each run that ends calls for a pass: `pytest_collection_finish` hides them from it.
gc.disable()

# Typer makes the tree of all commands anew for each call. It holds nothing of a call, and takes 50 ms.
typer.main.get_command = typer.testing._get_command = functools.cache(typer.main.get_command)

# A property's time says nothing on a shared machine; speed is a benchmark's business.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

PLUGINS = Path(__file__).parent / "plugins"
RAY_CPUS = 2
RAY_GROUP = "ray"
# Who asks for one of these has a Ray on this machine, whether or not it is marked.
RAY_FIXTURES = {"ray_session", "tiny_run", "cluster"}
# A trained SAM, an S3 server, a built wheel: each takes seconds to set up, so who asks for one is slow.
DEAR_FIXTURES = {"sam", "s3_server", "wheel"}
_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take a seed: no test may depend on the files that ran before its own in the process."""
    parser.addoption("--shuffle", metavar="SEED", help="run the files in an order drawn by SEED")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark every test that has a Ray, and give them to one of the parallel processes: two Rays starve each other."""
    if seed := config.getoption("shuffle"):
        # Keyed by name: a part of the files runs in the order that they have among all.
        items.sort(key=lambda item: random.Random(f"{seed} {item.nodeid.split('::')[0]}").random())
    for item in items:
        if RAY_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.ray)
        if DEAR_FIXTURES.intersection(getattr(item, "fixturenames", ())) or "s3" in _parameters(item):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group(RAY_GROUP))
        else:
            # Each takes seconds to set up: once a session, not once a process.
            for name in {"sam", "s3_server"}.intersection(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.xdist_group(name))


def _parameters(item: pytest.Item) -> list[object]:
    """Return the parameters of a test; a fixture with the parameter `s3` asks for the server when it is made."""
    call = getattr(item, "callspec", None)
    return [] if call is None else [value for value in call.params.values() if isinstance(value, str)]


def pytest_collection_finish() -> None:
    """Let the garbage collector see only what tests create."""
    gc.collect()
    gc.freeze()
    # A pass after each 700 new objects would be a twentieth of the tests' time.
    gc.set_threshold(50_000)
    gc.enable()


def pytest_runtest_setup() -> None:
    """Let torch use one core, whatever a command before has set: the processes share them, and weights differ by it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


class ByFile(LoadGroupScheduling):
    """Gives the tests of a file to one process, so that its fixtures are made once; the group with a Ray goes first."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        if RAY_GROUP in self.workqueue:
            # It takes longest by far, and decides when the other process may stop.
            self.workqueue.move_to_end(RAY_GROUP, last=False)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        return str(super()._split_scope(nodeid)).split("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile | None:
    """Return the scheduler of `--dist loadgroup`."""
    if config.getoption("shuffle"):
        config.option.loadscopereorder = False  # the files with the most tests first
    return ByFile(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture(scope="session", autouse=True)
def nothing_of_others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and the processes that they start, away from the weights and Rays of whoever runs them."""
    with (
        # Short: the path of a Unix socket may have 107 bytes. `auto` looks there for a Ray, also of other tests.
        tempfile.TemporaryDirectory(prefix="pr-", dir="/tmp", ignore_cleanup_errors=True) as ray_folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", ray_folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path_factory.getbasetemp() / "no-weights"))
        yield


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Leave writes to the page cache: no test cuts the power, and a run of a few images syncs sixty times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def stub_engines() -> None:
    """Make `tests/plugins` importable, its entry points known, here and in processes started from now on."""
    sys.path.insert(0, str(PLUGINS))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PLUGINS), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """Put credentials for a test server into the environment, here and in processes started from now on."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        for name in FORBIDDEN:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def s3_server(s3_credentials: None) -> Iterator[S3Server]:
    """Run one S3 server for the whole session; each test makes its own bucket, as `s3_bucket` does."""
    with serving_s3() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """Create a bucket for one test, and return its name."""
    return s3_server.new_bucket()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Run the demo once, with the embedded models on a Ray of its own, for all tests that look at its run."""
    from tests.builders.command import NUM_SCENES, TinyRun, pseudoris

    # What users' paths have: a space, a letter outside ASCII, what a pattern or a url would read as something else.
    folder = tmp_path_factory.mktemp("a [run] {1,2} é%20*")
    printed = pseudoris("demo", str(folder), "--scenes", str(NUM_SCENES), code=0)
    (out,) = folder.glob(f"tiny-{NUM_SCENES}-*")
    return TinyRun(folder / "images", out, printed)


@pytest.fixture(scope="session")
def ray_session(stub_engines: None, s3_credentials: None) -> Iterator[str]:
    """Start one local Ray of two CPUs for the whole session, and yield where it logs; `annotate` uses it as it is."""
    import ray

    connected = ray.init(
        address="local",
        num_cpus=RAY_CPUS,
        object_store_memory=1_500 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield str(Path(connected["session_dir"]) / "logs")
    ray.shutdown()


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Return a folder of the test whose name a pattern, a url or a shell would read as something else."""
    # pytest's own looks through the folders of all tests before for a number that is free.
    name = re.sub(r"\W", "_", request.node.name)[:26]
    folder = tmp_path_factory.mktemp(f"{name}{next(_numbers)}", numbered=False)
    if request.node.get_closest_marker("ray") is not None:
        # They write paths into YAML and shell words by hand; their shared run lies in such a folder.
        return folder
    folder /= "a [1] {b,c} é%20*"
    folder.mkdir()
    return folder

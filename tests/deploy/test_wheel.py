"""The wheel: what is in it, and that it runs in a folder whose files have the names of our rooms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders.images import png
from tests.builders.runs import SMALL, STUBS
from tests.builders.wheel import ROOMS, ROOT, copy_source, make_environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
DECOYS = ("training/__init__.py", "interchange/dataset.py", "workers/__init__.py", "deploy/__init__.py")
DECOYS += tuple(f"{name}.py" for name in ("pipeline", "store", "schemas", "synthworld", "viewer", "cli"))
# In every process of the environment: notes each import of a module of ours, and each of a bare name of a room.
WITNESS = """
import json, os, sys

ROOMS = {rooms!r}


class Witness:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ROOMS or name.startswith("pseudoris."):
            line = json.dumps([os.getpid(), sys.orig_argv, name]) + "\\n"
            descriptor = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, line.encode())
            os.close(descriptor)


sys.meta_path.insert(0, Witness())
"""
DATASET = """
import sys
from torch.utils.data import DataLoader
import pseudoris

where = pseudoris.ExpressionFilter(is_kept_only=False)
dataset = pseudoris.RisIterableDataset("out", pseudoris.SampleSpec(where=where))
batches = list(DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=pseudoris.collate_lists))
print(sum(len(batch["expressions"]) for batch in batches), pseudoris.__file__)
assert pseudoris.open_run("out").masks().count_rows() > 0 and pseudoris.verify("out").is_clean
"""


def test_the_wheel_holds_every_module_and_nothing_beside_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    found = {name for name in names if name.endswith(".py")}
    due = {f"pseudoris/{path.relative_to(ROOT).as_posix()}" for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert found == due | {"pseudoris/__init__.py", "pseudoris/__main__.py"}
    assert {name.partition("/")[0].removesuffix(".dist-info").partition("-")[0] for name in names} == {"pseudoris"}


def test_the_wheel_holds_the_data_of_the_packages(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "pseudoris/py.typed" in names
    for package, patterns in PROJECT["package-data"].items():
        folder = ROOT / package.replace(".", "/")
        files = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
        assert files, package
        inside = f"{package.replace('.', '/')}"
        assert {f"{inside}/{path.relative_to(folder).as_posix()}" for path in files} <= names, package


@dataclass(frozen=True)
class Elsewhere:
    """A folder of decoys, and the environment of the wheel."""

    folder: Path
    python: Path
    log: Path

    def run(self, *words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ended = subprocess.run(
            [str(word) for word in words],
            cwd=self.folder,
            env={**environment, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def imports(self) -> list[tuple[int, list[str], str]]:
        """Process, its command line, and the name that it asked for."""
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory) -> Elsewhere:
    folder = tmp_path_factory.mktemp("decoys")
    for name in DECOYS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"raise RuntimeError('the decoy {name} was imported')\n")
    for number in range(6):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"{number}.png").write_bytes(png(height=6 + number, width=9, seed=number))
    (folder / "dataset.py").write_text(DATASET)
    python = make_environment(tmp_path_factory.mktemp("environment") / "venv", wheel, ROOT / "tests" / "plugins")
    log = folder / "imports.jsonl"
    site = next((python.parent.parent / "lib").glob("python*/site-packages"))
    (site / "witness.py").write_text(WITNESS.format(rooms=set(ROOMS), log=str(log)))
    (site / "zz_witness.pth").write_text("import witness\n")
    return Elsewhere(folder, python, log)


@pytest.mark.ray
@pytest.mark.long
def test_it_runs_among_decoys_and_no_process_asks_for_a_bare_name(elsewhere):
    settings = [word for each in (*STUBS, *SMALL, "masks.options={raises_on: 3.png}") for word in ("--set", each)]
    python, command = elsewhere.python, elsewhere.python.with_name("pseudoris")
    # By `-m`: Python then looks into the working directory first, here and in Ray's workers.
    words = "-m pseudoris annotate images out --preset tiny --address local --shard-size 3"
    shown = elsewhere.run(python, *words.split(), *settings)
    assert "6 of 6: " in shown
    assert "1 quarantined" in shown
    assert "out: complete" in elsewhere.run(command, "status", "out")
    elsewhere.run(python, "-m", "pseudoris", "export", "out", "exported")
    num_samples, _, path = elsewhere.run(python, "dataset.py").partition(" ")
    assert int(num_samples) > 0
    assert path.startswith(str(elsewhere.python.parent.parent))

    imports = elsewhere.imports()
    assert [entry for entry in imports if entry[2].partition(".")[0] != "pseudoris"] == []
    # The witness was in each kind of process: else the line above would say nothing.
    modules = {}
    for process, words, name in imports:
        modules.setdefault((process, " ".join(words)), set()).add(name)
    for kind, name in {
        "pseudoris annotate": "pseudoris.pipeline.annotation",
        "default_worker.py": "pseudoris.workers.stages",
        "pseudoris.images.prover_main": "pseudoris.images.pixels",
        "pseudoris.workers.faults.subprocess_stages_main": "pseudoris.workers.stages",
        "dataset.py": "pseudoris.interchange.dataset",
    }.items():
        assert any(kind in words and name in found for (_, words), found in modules.items()), (kind, name)
    workers = [found for (_, words), found in modules.items() if "default_worker.py" in words]
    assert any("pseudoris.store.sources.planned_images" in found for found in workers), "a task that reads"
    assert any("pseudoris.store.runs.commit" in found for found in workers), "a task that commits"


@pytest.mark.slow
def test_a_second_build_packs_no_module_that_was_deleted(tmp_path):
    source = copy_source(tmp_path / "source")
    stale = source / "build" / "lib" / "pseudoris" / "deleted.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")

    pack = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", pack], cwd=source, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("pseudoris-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "pseudoris/cli/main.py" in names
    assert "pseudoris/deleted.py" not in names

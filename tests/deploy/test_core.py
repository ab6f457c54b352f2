"""The package without extras: its commands in an interpreter that sees what the core requires, and nothing else.

`make test-oldest` names another one: that of an environment with the oldest dependencies allowed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.extras import MODULES, require_extra
from pseudoris.synthworld.demo import write_demo
from tests.builders.wheel import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECORDED = ROOT / "tests/versions/0.5.0"
MOST_DEPENDENCIES = 14
OLDEST = os.environ.get("PSEUDORIS_CORE_PYTHON")
FORMATS = (
    *("parquet", "webdataset", "refer", "grefcoco", "coco", "hf", "reasonseg", "pseudo-ris-csv", "odvg", "sa1b"),
    *("qwen", "llamafactory", "ms-swift", "sa2va", "label-studio"),
)
DATASETS = """
import sys
import numpy, pseudoris
spec = pseudoris.SampleSpec(source="images")
dataset = pseudoris.RisDataset("finished", spec)
sample = dataset[0]
assert type(sample["image"]) is type(sample["mask"]) is type(sample["box_xyxy_px"]) is numpy.ndarray
assert (sample["image"].shape, sample["image"].dtype, sample["mask"].dtype) == ((3, 192, 192), "uint8", "bool")
assert len(list(pseudoris.RisIterableDataset("finished", spec))) == len(dataset) > 20
assert pseudoris.open_run("finished").masks().count_rows() >= len(dataset)
for refused in (lambda: pseudoris.annotate("images", "new"), lambda: pseudoris.ResumableLoader(dataset)):
    try:
        refused()
    except pseudoris.ConfigError as error:
        print(error)
"""

EXPORTS = """
import sys
import pseudoris
for name in sys.argv[1:]:
    pseudoris.export("finished", f"exported/{name}", name, source="images")
    print(name)
"""
# Commands one after another: a process each spends a second on imports. Prints exit code, output and errors of each.
COMMANDS = """
import contextlib, io, json, sys
from pseudoris.__main__ import main

def ended(words):
    sys.argv = ["pseudoris", *words.split()]
    try:
        main()
    except SystemExit as error:
        return error.code or 0
    return 0

found = []
for words in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        code = ended(words)
    found.append((code, out.getvalue(), errors.getvalue()))
print(json.dumps(found))
"""


def named(requirement: str) -> str:
    return Requirement(requirement).name.lower().replace("_", "-")


def closure(name: str, found: set[str]) -> set[str]:
    """Add a distribution and all that it requires, extras apart."""
    if name not in found:
        found.add(name)
        for each in distribution(name).requires or ():
            marker = Requirement(each).marker
            if marker is None or marker.evaluate({"extra": ""}):
                closure(named(each), found)
    return found


class Core:
    """A folder with a recorded run, and the interpreter."""

    def __init__(self, folder: Path) -> None:
        self.folder, site = folder, folder / "site"
        site.mkdir()
        for part in ("finished", "images"):
            (folder / part).symlink_to(RECORDED / part)
        # Without `site`, Python does not look into the environment that runs the tests.
        self._python, self._path = [sys.executable, "-S"], os.pathsep.join([str(site), str(ROOT)])
        if OLDEST is not None:
            self._python, self._path = [str(Path(OLDEST).absolute())], str(ROOT)
            return
        for name in closure("pseudoris", set()) - {"pseudoris"}:
            parts = {path.parts[0] for path in distribution(name).files or () if path.parts[0] != ".."}
            for part in parts:
                if not (site / part).exists():
                    (site / part).symlink_to(distribution(name).locate_file(part))

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "PYTHONPATH": self._path, "COLUMNS": "200"}
        options = {"cwd": self.folder, "env": variables, "capture_output": True, "text": True, "check": False}
        return subprocess.run([*self._python, *words], **options)

    def commands(self, *lines: str) -> list[tuple[int, str, str]]:
        ended = self.python("-c", COMMANDS, *lines)
        assert ended.returncode == 0, ended.stderr
        return [tuple(each) for each in json.loads(ended.stdout)]

    def __call__(self, *lines: str) -> list[str]:
        ended = self.commands(*lines)
        assert [(line, *each) for line, each in zip(lines, ended, strict=True) if each[0] != 0] == []
        return [out for _, out, _ in ended]


@pytest.fixture(scope="module")
def core(tmp_path_factory) -> Core:
    return Core(tmp_path_factory.mktemp("core"))


def test_the_core_has_few_dependencies_and_sees_none_of_the_others(core):
    assert len(PROJECT["dependencies"]) <= MOST_DEPENDENCIES
    absent = {module for modules in MODULES.values() for module in modules}
    code = f"import sys, importlib.util as u; print(*[m for m in {sorted(absent)} if u.find_spec(m)])"
    assert core.python("-c", code).stdout.strip() == ""


@pytest.mark.slow
def test_every_command_that_reads_runs_without_torch_and_ray(core):
    write_demo(core.folder / "drawn", num_scenes=6, seed=5)
    truth = json.loads((core.folder / "drawn/truth.json").read_text())
    truth = {Path(key).with_suffix(".jpg").name: scene for key, scene in truth.items()}
    (core.folder / "truth.json").write_text(json.dumps(truth))
    shown = core(
        *("--help", "train student --help", "config show", "status finished", "verify finished", "stats finished"),
        *("sample finished", "parts finished", "refilter finished stricter --tau 0.5"),
        *(f"{word} finished --truth synthworld:truth.json" for word in ("calibrate", "evaluate")),
    )
    assert "accuracy" in shown[-1]


@pytest.mark.slow
@pytest.mark.long
def test_every_export_but_those_that_count_tokens_is_written(core):
    exported = core.python("-c", EXPORTS, *FORMATS)
    assert (exported.returncode, exported.stderr) == (0, "")
    assert exported.stdout.split() == list(FORMATS)
    cris = "export finished exported/cris --format cris --source images"
    ended = core.python("-m", "pseudoris", *cris.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "pip install 'pseudoris[run]'" in ended.stderr
    assert not (core.folder / "exported/cris").exists()
    core(
        f"{cris} --max-tokens 0",
        "import exported/refer/refcoco exported/refer/images/mscoco/images/train2014 imported",
        *("gallery imported", "audit draw imported audited --pairs 4", "audit page audited --to page"),
    )


@pytest.mark.slow
def test_datasets_give_numpy_arrays(core):
    ended = core.python("-c", DATASETS)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        f"{name} needs 'ray', which is not installed: pip install 'pseudoris[run]'"
        for name in ("pseudoris.annotate", "ResumableLoader")
    ]


LACKING = {
    "annotate images new": "run",
    "demo new": "run",
    "weights get tiny": "remote",
    "train student finished --out new": "train",
    "predict images/scene-000.jpg tree --model new": "train",
    "ppt objects images new": "train",
    "evaluate --model clip:noun --truth finished": "train",
    "export finished new --format lmdb --max-tokens 0": "lmdb",
    "export finished new --format lmdb": "lmdb,run",
    "status s3://bucket/run": "remote",
}


@pytest.mark.slow
def test_a_command_without_its_extra_says_so_in_one_line_before_any_work(core):
    for (words, extra), (code, _, errors) in zip(LACKING.items(), core.commands(*LACKING), strict=True):
        (line,) = filter(None, errors.splitlines())
        assert code == 2, words
        assert re.fullmatch(rf"error .* needs '\w+', which is not installed: pip install 'pseudoris\[{extra}\]'", line)
    assert not (core.folder / "new").exists()


def test_the_modules_of_extras_are_those_of_their_requirements(monkeypatch):
    distributions = packages_distributions()
    for extra, modules in MODULES.items():
        due = {named(each) for each in PROJECT["optional-dependencies"][extra]} - {"pseudoris"}
        assert {distributions[module][0].lower().replace("_", "-") for module in modules} == due
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"^this needs 'ray', .*: pip install 'pseudoris\[run\]'$"):
        require_extra("run", "this")


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "deploy/Dockerfile"])
def test_what_a_node_installs_has_the_extra_that_annotates(name):
    commands = [line for line in (ROOT / name).read_text().splitlines() if "pip install" in line and ".whl" in line]
    assert commands
    assert all("pseudoris-*.whl)[run]" in line for line in commands)


def test_every_page_that_installs_names_extras_that_there_are():
    known = {*PROJECT["optional-dependencies"]}
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", *(ROOT / "docs").rglob("*.md")):
        for ours, extras in re.findall(r"(?:install|--editable) [^`\n]*?(pseudoris|'\.)\[([^\]]*)\]", path.read_text()):
            assert {each.strip() for each in extras.split(",")} <= known, (path, ours, extras)
    # The core alone annotates nothing: a page that says how to install it names the extra too.
    for path in (ROOT / "README.md", *(ROOT / "docs/start").glob("*.md")):
        text = path.read_text()
        assert "pip install" not in text or "[run]" in text, path

from __future__ import annotations

from pathlib import Path

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports import ExportReport
from tests.interchange.exports.builders import BuiltRun, build_run, build_run_of_several, export


@pytest.fixture(scope="session")
def built_run(tmp_path_factory) -> BuiltRun:
    """A committed run of real pictures; nobody writes into it."""
    return build_run(tmp_path_factory.mktemp("exports") / "run")


@pytest.fixture(scope="session")
def run_of_several(tmp_path_factory) -> BuiltRun:
    """A committed run with expressions of several masks and of none; nobody writes into it."""
    return build_run_of_several(tmp_path_factory.mktemp("several") / "run")


@pytest.fixture(scope="session")
def exported(built_run, tmp_path_factory):
    """Write a format once, of a run and with options; return its folder, which nobody writes into, and its report."""
    done: dict = {}

    def write(name: str, *, run: BuiltRun = built_run, **options) -> tuple[Path, ExportReport]:
        key = (name, run.location.root, *options.items())
        if key not in done:
            root = tmp_path_factory.mktemp("exported") / "export"
            done[key] = root, export(name, run, root, **options)
        return done[key]

    return write


@pytest.fixture
def tmp_path(request, tmp_path):
    """Return one with a plain name if a module asks: `datasets` and `webdataset` take a folder's for a pattern."""
    return tmp_path.parent if getattr(request.module, "HAS_PLAIN_PATHS", False) else tmp_path


@pytest.fixture
def place(tmp_path) -> RunLocation:
    """An empty folder for an export."""
    return RunLocation.open(str(tmp_path / "an export"))

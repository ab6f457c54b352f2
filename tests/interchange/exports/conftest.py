from __future__ import annotations

import pytest

from pseudoris.store.location import RunLocation
from tests.interchange.exports.builders import BuiltRun, build_run, build_run_of_several


@pytest.fixture(scope="session")
def built_run(tmp_path_factory) -> BuiltRun:
    """A committed run of real pictures; nobody writes into it."""
    return build_run(RunLocation.open(str(tmp_path_factory.mktemp("exports") / "run")))


@pytest.fixture(scope="session")
def run_of_several(tmp_path_factory) -> BuiltRun:
    """A committed run with expressions of several masks and of none; nobody writes into it."""
    return build_run_of_several(RunLocation.open(str(tmp_path_factory.mktemp("several") / "run")))


@pytest.fixture
def place(tmp_path) -> RunLocation:
    """An empty folder for an export."""
    return RunLocation.open(str(tmp_path / "an export"))

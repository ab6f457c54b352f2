"""One demonstration, with the embedded models on a Ray of its own, shared by the tests that look at its run."""

from __future__ import annotations

import pytest

from tests.builders.command import NUM_SCENES, TinyRun, pseudoris


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    # A space and a letter outside ASCII: what users' paths have.
    folder = tmp_path_factory.mktemp("a run é")
    printed = pseudoris("demo", str(folder), "--scenes", str(NUM_SCENES))
    assert printed.returncode == 0, printed.stdout + printed.stderr
    (out,) = folder.glob(f"run-{NUM_SCENES}-*")
    return TinyRun(folder / "images", out, printed)

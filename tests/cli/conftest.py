"""One real run of the embedded models through the command line, shared by the tests that look at it."""

from __future__ import annotations

import pytest

from synthworld.demo import write_demo
from tests.builders.command import NUM_SCENES, OPTIONS, TinyRun, pseudoris


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    # A space and a letter outside ASCII: what users' paths have.
    folder = tmp_path_factory.mktemp("a run é")
    source = write_demo(folder / "source", num_scenes=NUM_SCENES)
    out = folder / "out"
    return TinyRun(source, out, pseudoris("annotate", str(source), str(out), *OPTIONS))

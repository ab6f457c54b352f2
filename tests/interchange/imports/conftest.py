from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pseudoris.interchange.imports import ImportSummary
from pseudoris.store.location import RunLocation
from tests.builders.imports import import_small


@pytest.fixture
def imported(tmp_path) -> Callable[..., ImportSummary]:
    """Import into `out` of the test's folder, as `import_small` does."""

    def run(annotation, images, *words: str, out: str | Path = "", **values) -> ImportSummary:
        return import_small(annotation, images, RunLocation.open(str(out or tmp_path / "out")), *words, **values)

    return run

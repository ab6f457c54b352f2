from __future__ import annotations

import pytest

from pseudoris.files.location import RunLocation


@pytest.fixture
def location(tmp_path) -> RunLocation:
    """Where an import writes."""
    return RunLocation.open(str(tmp_path / "out"))

"""The wheel that `make wheel` writes, built once for all tests that install or submit it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.wheel import build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))

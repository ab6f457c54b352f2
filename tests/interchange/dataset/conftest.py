from __future__ import annotations

import io
from collections import Counter

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.schemas.tables import SCHEMAS
from tests.interchange.dataset.builders import build_run, composed_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three shards of four images with two masks of four kept texts each, embedded. Do not change it."""
    return build_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """Three shards of four images: two masks with four texts, one group and three of none each. Do not change it."""
    return build_run(tmp_path_factory.mktemp("composed"), rows=composed_rows)


class Reads:
    """What was read of a run, by path: (offset, length) of every read."""

    def __init__(self) -> None:
        self.ranges: dict[str, list[tuple[int, int]]] = {}
        self.opened: Counter[str] = Counter()

    def tables(self) -> set[str]:
        return {path.partition("/")[0] for path in self.ranges}


class CountedFile(io.BytesIO):
    def __init__(self, data: bytes, ranges: list[tuple[int, int]]) -> None:
        super().__init__(data)
        self._ranges = ranges

    def read(self, size: int | None = -1) -> bytes:
        start = self.tell()
        data = super().read(size)
        self._ranges.append((start, len(data)))
        return data


@pytest.fixture
def reads(monkeypatch):
    """Count what is read of the tables' parts from here on, in this process."""
    counted = Reads()
    real = RunLocation.open_input

    def open_input(self, path):
        if path.partition("/")[0] not in SCHEMAS:
            return real(self, path)
        counted.opened[path] += 1
        with real(self, path) as file:
            return CountedFile(file.read(), counted.ranges.setdefault(path, []))

    monkeypatch.setattr(RunLocation, "open_input", open_input)
    return counted

from __future__ import annotations

import uuid

import fsspec
import pytest

from store.location import RunLocation


@pytest.fixture(params=["disk", "objects"])
def location(request, tmp_path):
    """A location of each kind: a folder (with a space in its path), and objects in fsspec's memory store."""
    if request.param == "disk":
        yield RunLocation.open(str(tmp_path / "a run"))
        return
    root = f"memory://run-{uuid.uuid4().hex}"
    yield RunLocation.open(root)
    memory = fsspec.filesystem("memory")
    if memory.exists(root):
        memory.rm(root, recursive=True)


@pytest.fixture
def disk(tmp_path):
    return RunLocation.open(str(tmp_path / "a run"))

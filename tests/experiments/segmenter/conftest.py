from __future__ import annotations

import pytest
import torch

from tests.interchange.dataset.builders import build_run


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread: equal weights are promised for equal numbers of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(tmp_path) -> str:
    """Twelve embedded images with two masks of four kept texts each; where it lies."""
    return build_run(tmp_path / "data").location.root

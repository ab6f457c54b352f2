from __future__ import annotations

import pytest
import torch

from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.training.chooser.candidate_masks import CandidateStore
from pseudoris.training.learning.frozen_towers import FrozenTowers
from tests.training.chooser.builders import imported_run, small_config


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder of candidates that the tests share: an image is proposed once."""
    return tmp_path_factory.mktemp("candidates")


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> str:
    """An import of four scenes with what simulated annotators say of each object."""
    return imported_run(tmp_path_factory.mktemp("scenes"), 4)


@pytest.fixture
def config(cache):
    return small_config(cache)


@pytest.fixture(scope="session")
def towers(cache) -> FrozenTowers:
    return FrozenTowers(small_config(cache).towers)


@pytest.fixture
def store(config, towers) -> CandidateStore:
    return CandidateStore(config, towers)


@pytest.fixture(scope="session")
def pixels():
    """A scene, (3, H, W) uint8."""
    return torch.from_numpy(render(make_scene(Split.DEMO, 0)).image.copy()).permute(2, 0, 1)

import pytest
from huggingface_hub import constants

from pseudoris.workers.checkpoints.weight_cache import WeightCache
from tests.builders.vlms import save_vlm


@pytest.fixture(scope="package")
def saved(tmp_path_factory):
    """A saved model whose weights are three files."""
    return save_vlm(tmp_path_factory.mktemp("saved"), shard="100KB")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return WeightCache(tmp_path / "cache", is_named=True)

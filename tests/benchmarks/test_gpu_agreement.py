"""Times of a device count only where its engines give what their references give."""

import shutil

import pytest
import torch

from benchmarks import gpu_agreement
from benchmarks.authors_loop import AuthorsLoop
from benchmarks.gpu import scenes_with
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder


def captioned():
    config = load_config("tiny")
    return CocaCaptioner(config.captions, config.compute)(scenes_with(2, 1))


@pytest.mark.slow
def test_engines_that_draw_other_captions_are_not_timed(monkeypatch):
    sample = AuthorsLoop.sample
    monkeypatch.setattr(AuthorsLoop, "sample", lambda self, *given: [(), *sample(self, *given)[1:]])
    with pytest.raises(ValueError, match="caption 0 differs in float64"):
        gpu_agreement.check_captions(load_config("tiny"))


@pytest.mark.slow
def test_a_filter_that_scores_otherwise_is_not_timed(monkeypatch):
    shard, config = captioned(), load_config("tiny")
    gpu_agreement.check_filter(config, shard)
    embed = ClipEmbedder.embed_crops
    monkeypatch.setattr(ClipEmbedder, "embed_crops", lambda self, crops: embed(self, crops).roll(1, dims=0))
    with pytest.raises(ValueError, match="scores differ by"):
        gpu_agreement.check_filter(config, shard)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")
@pytest.mark.long
def test_all_compiled_engines_of_a_preset_give_what_their_references_give():
    torch.compiler.reset()
    gpu_agreement.check_compiled(load_config("tiny", assignments=["compute.is_compiled=true"]), captioned())

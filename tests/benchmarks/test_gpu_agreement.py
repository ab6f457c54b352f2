"""Times of a device count only where its engines give what their references give."""

import shutil

import pytest
import torch

from benchmarks import gpu_agreement
from benchmarks.captioner import AuthorsLoop
from benchmarks.mask_sides import scene_pixels
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.forward_passes import compile_tower
from pseudoris.workers.masks import sam_model


@pytest.mark.slow
def test_engines_that_draw_other_captions_are_not_timed(monkeypatch):
    sample = AuthorsLoop.sample
    monkeypatch.setattr(AuthorsLoop, "sample", lambda self, *given: [(), *sample(self, *given)[1:]])
    with pytest.raises(ValueError, match="caption 0 differs in float64"):
        gpu_agreement.check_captions(load_config("tiny"))


HALF = load_config("tiny", assignments=["compute.precision=bfloat16"])


@pytest.mark.parametrize("name", ["embed_crops", "embed_texts"])
def test_a_filter_that_embeds_otherwise_is_not_timed(monkeypatch, name):
    gpu_agreement.check_embeddings(HALF)
    embed = getattr(ClipEmbedder, name)

    def other_in_half(self, given):
        rows = embed(self, given)
        return rows if self._dtype == torch.float32 else rows.roll(1, dims=0)

    monkeypatch.setattr(ClipEmbedder, name, other_in_half)
    with pytest.raises(ValueError, match=f"embeddings of {name.removeprefix('embed_')}, bfloat16, are"):
        gpu_agreement.check_embeddings(HALF)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")
@pytest.mark.long
def test_all_compiled_engines_of_a_preset_give_what_their_references_give():
    torch.compiler.reset()
    config = load_config("tiny", assignments=["compute.is_compiled=true", "compute.precision=bfloat16"])
    gpu_agreement.check_captions(config)
    gpu_agreement.check_embeddings(config)
    sam = sam_model.load_sam(config.masks.architecture, config.masks.weights).requires_grad_(False)
    with torch.inference_mode():
        (expected,) = sam_model.encode_sam_crops(sam, scene_pixels(1), torch.float32)
        compile_tower(sam.image_encoder)
        (found,) = sam_model.encode_sam_crops(sam, scene_pixels(1), torch.bfloat16)
    assert (found.embedding - expected.embedding).norm() < 0.1 * expected.embedding.norm()

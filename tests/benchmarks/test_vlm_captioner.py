"""The other sides of the benchmark are no straw men: the plain loop draws the very captions, `generate` as many."""

import pytest
import torch

from benchmarks import vlm_captioner
from pseudoris.workers.captions.vlm_captioner import VlmCaptioner, vlm_engine
from pseudoris.workers.captions.vlm_loading import VlmOptions, load_vlm
from recipes.llava_recipe import FOLDER


@pytest.mark.slow
def test_all_sides_caption_the_same_crops():
    config = vlm_captioner.config_of(str(FOLDER))
    # In float64: in float32 the two orders of summation may flip a draw.
    vlm = load_vlm(config.captions.weights, VlmOptions.of(config.captions), torch.device("cpu"), torch.float64)
    image = vlm_captioner.crops_of(VlmCaptioner(config.captions, config.compute), 2)
    ours = vlm_engine(vlm, config.captions, seed=0)
    plain = vlm_captioner.PlainLoop(vlm, ours.special, config.captions, seed=0)
    drawn = [each.tokens for each in ours.generate(image)]
    assert plain.sample(image, 0) == drawn
    assert len(set(drawn)) > 5
    generated = vlm_captioner.generated(vlm, image.pixels[0], config.captions)
    assert len(generated) * len(generated[0]) == len(drawn)


@pytest.mark.long
def test_the_command_line_writes_rows_with_the_promised_keys(tmp_path):
    path = tmp_path / "rows.json"
    vlm_captioner.main(["--masks", "2", "--repeats", "1", "--json", str(path)])
    assert '"baseline_s"' in path.read_text(encoding="utf-8")

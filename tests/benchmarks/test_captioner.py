"""The benchmark's other side is no straw man: it draws the very captions that the engine draws."""

from dataclasses import replace

import pytest

from benchmarks import captioner
from benchmarks.captioner import AuthorsLoop
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.checkpoints.openclip import load_coca


@pytest.mark.slow
def test_both_sides_draw_the_same_captions():
    config = captioner.one_crop_kind(load_config("tiny", assignments=["captions.max_length=8"]).captions)
    # In float64: in float32 the two orders of summation may flip a draw.
    model = load_coca(config.architecture, config.weights).double()
    special = captioner.special_tokens(model)
    image = captioner.noise_crops(3, model.visual.image_size[0])
    image = replace(image, pixels=image.pixels.double())
    theirs = AuthorsLoop(model, special, config, seed=0).sample(image, 0)
    captions = coca_engine(model, special, config, seed=0).generate(image)
    assert [caption.tokens for caption in captions if caption.rule.name != "beam"] == theirs
    assert len(set(theirs)) > 5


@pytest.mark.long
def test_the_command_line_writes_rows_with_the_promised_keys(tmp_path):
    path = tmp_path / "rows.json"
    captioner.main(["--masks", "2", "--steps", "4", "--repeats", "1", "--json", str(path)])
    assert '"baseline_s"' in path.read_text(encoding="utf-8")

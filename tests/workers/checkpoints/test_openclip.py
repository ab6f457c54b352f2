import json

import pytest
import torch
from open_clip.coca_model import CoCa

from schemas.errors import ConfigError
from workers.checkpoints.openclip import build_clip, build_coca, read_model_config


def test_the_shipped_configs_build_what_they_should():
    assert isinstance(build_coca("builtin:tiny/coca.json"), CoCa)
    assert build_clip("builtin:tiny/clip.json").visual.image_size == (96, 96)


def test_every_weight_of_a_fresh_captioner_is_drawn():
    torch.manual_seed(1)
    projection = build_coca("builtin:tiny/coca.json").text_decoder.text_projection
    assert projection.isfinite().all()
    assert projection.std().item() == pytest.approx(128**-0.5, rel=0.05)
    torch.manual_seed(1)
    assert torch.equal(projection, build_coca("builtin:tiny/coca.json").text_decoder.text_projection)


def test_a_model_config_may_be_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(read_model_config("builtin:tiny/clip.json")))
    assert build_clip(str(path)).visual.image_size == (96, 96)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("RN5000", "not in open_clip's registry"),
        ("missing.json", "no such file"),
        ("builtin:tiny/none.json", "no such file is shipped"),
    ],
)
def test_an_unknown_architecture_names_what_is_known(architecture, message):
    with pytest.raises(ConfigError, match=message):
        read_model_config(architecture)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ('{"embed_dim": 3}', "it needs embed_dim")])
def test_a_damaged_config_is_refused(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_model_config(str(tmp_path / "bad.json"))


def test_a_captioner_needs_a_decoder_and_a_scorer_none():
    with pytest.raises(ConfigError, match="a captioner must be a CoCa"):
        build_coca("builtin:tiny/clip.json")
    with pytest.raises(ConfigError, match="a scorer must be a CLIP"):
        build_clip("builtin:tiny/coca.json")

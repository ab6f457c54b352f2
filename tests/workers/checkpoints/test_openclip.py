import json

import pytest
import torch
from open_clip.coca_model import CoCa

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.openclip import build_clip, build_coca, read_model_config


def test_the_shipped_configs_build_what_they_should():
    assert isinstance(build_coca("builtin:tiny/coca.json"), CoCa)
    assert build_clip("builtin:tiny/clip.json").visual.image_size == (96, 96)


def test_both_models_of_paper_see_224_pixels():
    paper = load_config("paper")
    captioner, clip = (read_model_config(each.architecture) for each in (paper.captions, paper.filtering))
    assert captioner["vision_cfg"]["image_size"] == clip["vision_cfg"]["image_size"] == 224
    # ViT-L/14, and ResNet-50.
    assert (captioner["vision_cfg"]["width"], captioner["vision_cfg"]["patch_size"]) == (1024, 14)
    assert clip["vision_cfg"]["layers"] == [3, 4, 6, 3]


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


SOUND = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is not JSON"),
        ('{"embed_dim": ' + "9" * 5_000 + "}", "is not JSON"),
        ('"' + "x" * 2**20 + '"', "is a file of 1,048,578 bytes, a model config has at most 1,048,576"),
        (json.dumps({**SOUND, "embed_dim": 10**12}), "embed_dim is 1000000000000; the numbers of a model are at most"),
        (json.dumps({**SOUND, "text_cfg": {"layers": -(10**9)}}), r"text_cfg\.layers is -1000000000"),
        (json.dumps({**SOUND, "vision_cfg": {"layers": [1, float("nan")]}}), r"vision_cfg\.layers is nan"),
        (json.dumps({**SOUND, "no_such_setting": 1}), "open_clip cannot build this architecture .TypeError"),
        (json.dumps({**SOUND, "vision_cfg": 3}), "open_clip cannot build this architecture"),
    ],
)
def test_a_config_that_is_none_or_absurd_is_refused_before_memory_is_taken(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        build_clip(str(path))

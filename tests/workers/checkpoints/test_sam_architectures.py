"""An architecture is a name, or a file of numbers that fit together."""

import json

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture

ARCHITECTURE = {"encoder_width": 64, "encoder_depth": 2, "encoder_heads": 2, "encoder_global_blocks": [1]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_size": 100}, "image_size 100 is not a multiple of patch_size 16"),
        ({"encoder_heads": 5}, "encoder_width 64 is not a multiple of heads 5"),
        ({"encoder_global_blocks": [2]}, r"\[2\] lie outside 0..1"),
        ({"depth": 2}, "depth: Extra inputs are not permitted"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changed, message, tmp_path):
    path = tmp_path / "sam.json"
    path.write_text(json.dumps(ARCHITECTURE), encoding="utf-8")
    assert sam_architecture(str(path)).encoder_width == 64
    path.write_text(json.dumps(ARCHITECTURE | changed), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        sam_architecture(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit-b", r"choose from vit_b, vit_l, vit_h, tiny, or give .*; did you mean vit_b\?"),
        ("absent.json", "'absent.json' cannot be read: No such file"),
    ],
)
def test_an_unknown_architecture_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        sam_architecture(name)

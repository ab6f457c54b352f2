"""The perceptual hash: that of imagehash, near for copies, and computed in the prover's child."""

from __future__ import annotations

import sys

import imagehash
import pytest
from PIL import Image

from pseudoris.images.perceptual_hash import perceptual_hash, require_imagehash
from pseudoris.images.prover import Prover
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.shard import Proof
from tests.builders import images as build


def test_it_is_what_imagehash_gives_for_the_upright_image():
    pixels = build.random_pixels(40, 60)
    expected = str(imagehash.phash(Image.fromarray(pixels)))
    assert perceptual_hash(pixels) == expected
    with Prover(ImagesConfig(), has_hash=True) as prover:
        # Turned back by its EXIF tag: orientation 3 is half a turn.
        turned = build.oriented(pixels[::-1, ::-1].copy(), 3)
        assert prover.prove(turned) == Proof((40, 60), None, expected)
        assert prover.prove(build.encode(pixels)).size == (40, 60)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(ConfigError, match=r"'imagehash' is not installed.*pip install 'pseudoris\[exclude\]'"):
        require_imagehash()

"""HEIC photographs, which the plug-in of `pseudoris[heif]` reads."""

from __future__ import annotations

import io
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from pseudoris.images.pixels import decode_upright, import_plugins, turn_upright, upright_size
from pseudoris.images.prover import Prover
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError, ImageError
from pseudoris.schemas.untrusted import HEIF_PLUGIN

LIMITS = load_config("tiny", assignments=[f"images.decoder_plugins=[{HEIF_PLUGIN}]"]).images
# Blocks of one colour, which lossy compression keeps.
PIXELS = np.kron(np.random.default_rng(4).integers(0, 255, (4, 6, 3), np.uint8), np.ones((16, 16, 1), np.uint8))


def heic(pixels: np.ndarray, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = pillow_heif.from_pillow(Image.fromarray(pixels))
    buffer = io.BytesIO()
    image.save(buffer, quality=-1, chroma=444, exif=exif.tobytes())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def prover():
    import_plugins([HEIF_PLUGIN])
    with Prover(LIMITS) as prover:
        yield prover


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_read_upright(prover, orientation):
    data, upright = heic(PIXELS, orientation), turn_upright(PIXELS, orientation)
    assert prover.prove(data).size == upright_size(data, LIMITS.decoder_plugins) == upright.shape[:2]
    assert np.abs(decode_upright(data, LIMITS).astype(int) - upright).max() <= 3


def test_what_is_transparent_is_laid_on_white(prover):
    clear = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)])
    assert decode_upright(heic(clear), LIMITS).min() == 255


def test_a_truncated_photograph_is_no_half_image(prover):
    data = heic(PIXELS)
    for end in (20, len(data) // 2, len(data) - 10):
        with pytest.raises(ImageError, match=r"header is|stopped before|no decoder recognises") as caught:
            prover.prove(data[:end])
        assert caught.value.reason in ("corrupt", "not_an_image")


def test_without_the_extra_a_run_is_refused_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, HEIF_PLUGIN, None)
    with pytest.raises(ConfigError, match=r"names 'pillow_heif.HeifImagePlugin'.*pip install 'pseudoris\[heif\]'"):
        import_plugins([HEIF_PLUGIN])

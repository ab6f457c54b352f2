"""How far an image lies from what SAM was trained on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.synthworld.worlds import WORLDS
from pseudoris.workers.checkpoints.sam_architectures import SAM_ARCHITECTURES
from pseudoris.workers.domain_scorer import (
    DomainStatistics,
    NumpyEncoder,
    load_scorer,
    read_statistics,
)
from pseudoris.workers.masks.sam_model import build_sam
from recipes.domain_recipe import fit_statistics, write_statistics
from tests.builders.images import random_pixels, smooth_pixels

TINY = load_config("tiny")
SHA = "a" * 64


@pytest.fixture(scope="module")
def score():
    return load_scorer(TINY)


def scene(world="default", position=0):
    return render(make_scene(Split.DEMO, position, world=world)).image


def test_a_known_images_score_is_1_without_itself():
    known = (np.random.default_rng(0).normal(size=(300, 4)) * [1, 2, 5, 9] + 3).astype(np.float32)
    scores = [fit_statistics(np.delete(known, each, axis=0), SHA).score(known[each]) for each in range(60)]
    assert np.median(scores) == pytest.approx(1, abs=0.15)


def test_a_rare_kind_is_known_and_what_lies_between_two_kinds_is_not():
    noise = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    statistics = fit_statistics(np.concatenate([noise, noise[:6] + 100]), SHA)
    assert statistics.score(np.array([100, 100], np.float32)) < 10 < statistics.score(np.array([50, 50], np.float32))


def test_a_direction_counts_by_how_much_the_known_images_vary_in_it():
    known = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32) * np.array([1, 20], np.float32)
    statistics = fit_statistics(known, SHA)
    assert statistics.score(np.array([40, 0], np.float32)) > 5 * statistics.score(np.array([0, 40], np.float32))


def test_the_score_is_the_distance_to_the_third_nearest():
    known = np.array([[1, 0], [0, 2], [5, 0], [0, 9]], np.float16)
    statistics = DomainStatistics(np.eye(2, dtype=np.float32), known, 1.0, SHA)
    assert statistics.score(np.zeros(2, np.float32)) == 5


def test_the_file_holds_what_was_measured_and_its_bytes_are_the_same_twice(tmp_path):
    statistics = DomainStatistics(np.eye(3, dtype=np.float32), np.ones((5, 3), np.float16), 2.5, SHA)
    for name in ("first", "second"):
        write_statistics(tmp_path / name, statistics)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    found = read_statistics(WeightsConfig(uri=str(tmp_path / "first")))
    assert (found.max_score, found.encoder_sha256) == (2.5, SHA)
    np.testing.assert_array_equal(found.whitening, statistics.whitening)
    assert found.known.dtype == np.float16


@pytest.mark.parametrize("write", [lambda path: save_file({"known": np.zeros(2)}, path), lambda path: path.touch()])
def test_a_file_without_statistics_is_refused(tmp_path, write):
    write(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"domain\.weights\.uri '.*other' holds no statistics of a domain"):
        read_statistics(WeightsConfig(uri=str(tmp_path / "other")))


@pytest.mark.parametrize("world", WORLDS)
def test_scenes_of_every_world_are_inside(score, world):
    assert score(scene(world)) <= score.statistics.max_score


def test_the_shape_alone_decides_nothing(score):
    square = scene()
    wide = np.concatenate([square[:, :60], square, square[:, -60:]], axis=1)
    assert score(wide) == score(square)
    assert score(np.repeat(np.repeat(square, 2, 0), 2, 1)) <= score.statistics.max_score


def test_noise_and_ramps_are_outside(score):
    assert min(score(random_pixels(192, 192)), score(smooth_pixels(192, 192))) > score.statistics.max_score


@pytest.mark.parametrize(
    "words", [["domain=null"], ["masks.weights.uri=random:0"], ["masks.engine=plugin"]], ids=lambda words: words[0]
)
def test_where_nothing_is_known_no_score_is_given(words):
    assert load_scorer(load_config("tiny", None, words)) is None
    assert load_scorer(load_config("base")) is None


def test_ready_masks_ask_for_no_sam_that_is_not_here():
    absent = "masks.weights.uri=/nowhere/sam.safetensors"
    assert load_scorer(load_config("tiny", None, [absent, "masks.engine=ready"])) is None
    with pytest.raises(ConfigError, match="there is no such file"):
        load_scorer(load_config("tiny", None, [absent]))


def test_another_sam_has_another_domain(tmp_path):
    other = tmp_path / "sam.safetensors"
    save_file({"x": np.zeros(1)}, other)
    assert load_scorer(load_config("tiny", None, [f"masks.weights.uri={other}"])) is None


def test_weights_that_do_not_fit_the_architecture_are_refused():
    with pytest.raises(ConfigError, match=r"cannot be read for the score of the domain: pos_embed is"):
        load_scorer(load_config("tiny", None, ["masks.architecture=vit_b"]))


@pytest.mark.slow
def test_scoring_loads_neither_torch_nor_scipy():
    code = (
        "import sys, numpy; from pseudoris.schemas.config_layers import load_config; "
        "from pseudoris.workers.domain_scorer import load_scorer; "
        "load_scorer(load_config('tiny'))(numpy.zeros((9, 9, 3), numpy.uint8)); "
        "print([name for name in ('torch', 'scipy', 'ray') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "[]\n"


ENCODER = SAM_ARCHITECTURES["tiny"]


@pytest.fixture(params=[(), (1,), (0, 1)], ids=["windows", "both", "global"])
def sam(request):
    """A small SAM with random weights; its grid of 5 x 5 is no multiple of its windows of 3 x 3."""
    small = {"image_size": 40, "patch_size": 8, "encoder_width": 16, "encoder_depth": 2, "encoder_heads": 2}
    windows = {"encoder_global_blocks": request.param, "window_size": 3, "prompt_width": 8, "decoder_mlp_width": 8}
    torch.manual_seed(0)
    built = build_sam(ENCODER.model_copy(update={**small, **windows, "decoder_heads": 2}))
    for name, weight in built.named_parameters():
        # Made as zeros, which would hide how they are used.
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return ENCODER.model_copy(update={**small, **windows, "decoder_heads": 2}), built


def tensors(sam):
    return {name: tensor.numpy() for name, tensor in sam.state_dict().items()}


def test_the_embedding_is_segment_anythings(sam):
    architecture, model = sam
    pixels = random_pixels(40, 40)
    with torch.inference_mode():
        planes = model.preprocess(torch.from_numpy(pixels).permute(2, 0, 1).float()[None])
        expected = model.image_encoder(planes)[0].numpy()
    found = NumpyEncoder(architecture, tensors(model))(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_an_image_of_another_size_and_weights_of_another_architecture_are_refused(sam):
    architecture, model = sam
    with pytest.raises(ValueError, match=r"expected \(40, 40, 3\)"):
        NumpyEncoder(architecture, tensors(model))(random_pixels(40, 48))
    with pytest.raises(ValueError, match=r"pos_embed is \(1, 5, 5, 16\), expected \(1, 10, 10, 16\)"):
        NumpyEncoder(architecture.model_copy(update={"image_size": 80}), tensors(model))

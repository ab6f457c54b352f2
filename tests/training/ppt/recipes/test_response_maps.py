"""From an image to a response map, from there to points, and from texts to pseudo-masks."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image

from pseudoris.files.location import RunLocation
from pseudoris.primitives.clip_tokenizer import ClipTokenizer
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.training.ppt.recipes import grounded_runs
from pseudoris.training.ppt.recipes.grounded_runs import frequent_nouns, merged, pair_masks
from pseudoris.training.ppt.recipes.grounding import (
    GroundedMask,
    Grounder,
    Peaks,
    as_shares,
    parted,
    prompted,
    response_points,
)
from pseudoris.training.ppt.recipes.recipe_config import GroundingConfig, load_recipe_config
from pseudoris.workers.checkpoints.openclip import load_clip
from tests.interchange.dataset.builders import build_run
from tests.training.ppt.builders import CLIP

SHARE = np.zeros((8, 8), np.float32)
SHARE[1:4, 1:4] = 0.9
SHARE[2, 2] = 1.0
SHARE[6:, :] = 0.5


def _patches_of_surgery(model, planes: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """The patches (L, D) by CLIP Surgery as its paper has it: v-v attention beside the last blocks, nothing else."""
    blocks, outputs = model.visual.transformer.resblocks, []
    hooks = [block.register_forward_hook(lambda *args: outputs.append(args[-1])) for block in blocks]
    model.encode_image(planes)
    for hook in hooks:
        hook.remove()
    first = len(blocks) - num_blocks
    path = outputs[first - 1][0]
    for block, tokens in zip(blocks[first:], outputs[first - 1 :], strict=False):
        width = tokens.shape[-1]
        attention, normed = block.attn, block.ln_1(tokens[0])
        values = normed @ attention.in_proj_weight[2 * width :].T + attention.in_proj_bias[2 * width :]
        heads = values.split(width // attention.num_heads, 1)
        read = [(head @ head.T / head.shape[1] ** 0.5).softmax(1) @ head for head in heads]
        path = path + attention.out_proj(torch.cat(read, 1))
    return model.visual.ln_post(path[1:]) @ model.visual.proj


@pytest.mark.parametrize("redundant", [(), ("cup", "red star")], ids=["a text alone", "among classes"])
def test_in_paper_a_response_is_clip_surgerys_in_six_blocks_with_its_feature_surgery(tmp_path, redundant) -> None:
    path, weights = tmp_path / "clip.json", WeightsConfig(uri="random:1")
    path.write_text(json.dumps({**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "layers": 8}}), encoding="utf-8")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    run = load_config("tiny", None, [f"filtering.architecture={path}", "filtering.weights.uri=random:1"])
    found = Grounder(load_recipe_config("paper").grounding, run).responses(image, ["red star"], redundant)

    model = load_clip(str(path), weights).requires_grad_(False)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    planes = ((torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std)[None]
    patches = F.normalize(_patches_of_surgery(model, planes, 6), dim=1)
    pooled = F.normalize(model.encode_image(planes), dim=1)
    asked = (
        [f"a photo of a {text}" for text in ("red star", "cup")]
        if redundant
        else ["a photo of a red star", "a photo of a "]
    )
    texts = F.normalize(model.encode_text(ClipTokenizer(12)(asked)), dim=1)
    if redundant:
        # As clip_feature_surgery of CLIP Surgery's code has it: weigh the products, then take away their mean.
        weights_of = (2 * pooled @ texts.T).softmax(-1)
        products = patches[:, None] * texts[None] * (weights_of / weights_of.mean())[0, :, None]
        response = (products - products.mean(1, keepdim=True)).sum(-1)[:, 0]
    else:
        response = patches @ (texts[0] - texts[1])
    whole = F.interpolate(response.view(1, 1, 4, 4), (32, 32), mode="bicubic")[0]
    np.testing.assert_allclose(found, as_shares(whole.numpy()), atol=1e-3)


def test_a_phrase_is_read_without_its_article_and_a_flat_response_is_zero() -> None:
    assert prompted("the red star", "a photo of a {}") == "a photo of a red star"
    assert prompted("the", "a photo of a {}") == "a photo of a the"
    maps = np.array([[[1.0, 3.0]], [[2.0, 2.0]]], np.float32)
    assert as_shares(maps).tolist() == [[[0.0, 1.0]], [[0.0, 0.0]]]


def test_the_first_point_is_the_peak_and_the_others_spread_over_high_and_low_responses() -> None:
    xy, labels = response_points(SHARE, 3, high=0.8, low=0.2)

    assert xy[0].tolist() == [2.5, 2.5]
    assert labels.tolist() == [1, 1, 1, 0, 0, 0]
    at = np.floor(xy).astype(int)
    responses = SHARE[at[:, 1], at[:, 0]]
    assert (responses[labels == 1] >= 0.8).all()
    assert (responses[labels == 0] <= 0.2).all()
    assert len({tuple(point) for point in xy.tolist()}) == 6


@given(
    share=arrays(np.float32, (9, 11), elements=st.floats(0, 1, width=32)),
    count=st.integers(1, 4),
    min_share=st.floats(0.5, 1),
)
def test_parts_are_as_many_as_were_asked_for_at_most_and_do_not_overlap(
    share: np.ndarray, count: int, min_share: float
) -> None:
    parts = parted(share, Peaks(count, min_share, 0.2))

    assert 1 <= len(parts) <= count
    assert (np.sum(parts, 0) <= share).all()
    assert (np.sum(np.array(parts) > 0, 0) <= 1).all()
    heights = [part.max() for part in parts]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == share.max()
    assert len(parts) == 1 or heights[-1] >= min_share


def test_two_objects_that_answer_alike_are_two_masks() -> None:
    grounder = Grounder(GroundingConfig(), load_recipe_config("tiny").run)
    rendered = render(make_scene(Split.TEST, 0))
    first, second = sorted(rendered.masks, key=lambda mask: -mask.sum())[:2]
    both, bilinear = Image.fromarray((first | second).astype(np.uint8) * 255), Image.Resampling.BILINEAR
    share = np.asarray(both.resize((16, 16), bilinear).resize((192, 192), bilinear), np.float32) / 255

    (found,) = grounder.answers(rendered.image, share[None], Peaks(2, 0.8))

    ious = [max((mask & truth).sum() / (mask | truth).sum() for mask, _, _ in found) for truth in (first, second)]
    assert len(found) == 2
    assert min(ious) > 0.5


def _columns(start: int, stop: int) -> np.ndarray:
    """A mask (1, 100) of whole columns, so that IoUs are quotients of numbers of columns."""
    mask = np.zeros((1, 100), np.bool_)
    mask[:, start:stop] = True
    return mask


def _found(phrase: str, start: int, stop: int, agreement: float = 0.5) -> GroundedMask:
    return GroundedMask(phrase, _columns(start, stop), 0.9, agreement)


def test_masks_that_overlap_by_seven_tenths_are_one_pseudo_mask_and_by_less_are_two() -> None:
    whole = _found("star", 0, 100)

    assert merged([whole, _found("shape", 0, 70, 0.4)], 0.7) == [whole]
    assert len(merged([whole, _found("shape", 0, 69, 0.4)], 0.7)) == 2


def test_pseudo_masks_come_in_the_order_of_their_phrases_and_no_chain_of_masks_is_one() -> None:
    # IoUs: 17/20 of the first two, 15/19 of the last two, and 15/22 of the first and the last.
    ends, middle = [_found("star", 0, 20, 0.6), _found("cup", 5, 22, 0.4)], _found("shape", 3, 20, 0.5)

    assert merged([ends[1], middle, ends[0]], 0.7) == [ends[1], ends[0]]
    assert merged([ends[0], middle, ends[1]], 0.7) == [ends[0], ends[1]]
    # Of near-equal masks that agree alike the first stays.
    found = [_found("star", 0, 100, 0.4), _found("shape", 0, 90, 0.6), _found("thing", 0, 95, 0.6)]
    assert merged(found, 0.7) == [found[1]]


SAID = ("the red circle left of the star", "a small cup", "the crab on the left")


@pytest.mark.slow
def test_whole_noun_phrases_are_asked_for_and_not_their_heads_alone(tmp_path, monkeypatch) -> None:
    # In the place of CLIP and SAM: finds nothing.
    grounder = Mock(return_value=[])
    monkeypatch.setattr(grounded_runs, "Grounder", Mock(return_value=grounder))
    rows = [(0, text, {}) for text in SAID]
    source = build_run(tmp_path / "said", num_shards=1, per_shard=1, rows=lambda number: rows).location
    write_manifest(source)
    peaks = load_recipe_config("paper").pairs.peaks_per_phrase
    config = load_recipe_config("tiny", None, ("filtering.weights.uri=random:0", f"pairs.peaks_per_phrase={peaks}"))
    out = RunLocation.open(str(tmp_path / "h"))

    pair_masks(source.root, out, config, on_progress=lambda done, total: None, on_wait=print)

    ((_, phrases, _, asked),) = (call.args for call in grounder.call_args_list)
    assert {*phrases} == {"red circle", "star", "small cup", "crab"}
    # One candidate a phrase.
    assert asked.count == 1


def test_frequent_nouns_are_heads_of_kept_texts_alone_and_ties_go_by_the_alphabet(tmp_path) -> None:
    texts = ["the red circle left of the star", "a blue circle", "a small cup", "the crab"]
    rows = [*((0, text, {}) for text in texts), *((0, f"kite {at}", {"kept": False}) for at in range(3))]
    location = build_run(tmp_path, num_shards=1, per_shard=2, rows=lambda number: rows).location

    assert frequent_nouns(location, 8) == ["circle", "crab", "cup"]
    assert frequent_nouns(location, 1) == ["circle"]

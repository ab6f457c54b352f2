"""The decoder over SAM's weights equals SAM's own `MaskDecoder`, its upscaling included."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pseudoris.workers import pass_sizes
from pseudoris.workers.masks.prompt_decoder import SamPromptDecoder

KEEP_ALL = 0.0
# Two float32 forwards add up in other orders: each is 2e-5 from the one in float64, on logits of up to 30.
ROUNDING = 4e-5


def points(number, seed=0):
    return 64 * torch.rand(number, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def embedding(sam):
    pixels = 255 * torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return sam.image_encoder(sam.preprocess(torch.nn.functional.interpolate(pixels, (64, 64))))[0]


@torch.no_grad()
def expected(sam, embedding, xy, dtype=torch.float32):
    """Logits (3P, h, w) and predicted IoU (3P,) of SAM's modules, the decoder in `dtype`."""
    labels = torch.ones(len(xy), 1, dtype=torch.int)
    sparse, dense = sam.prompt_encoder(points=(xy[:, None], labels), boxes=None, masks=None)
    given = (embedding[None], sam.prompt_encoder.get_dense_pe(), sparse, dense)
    logits, iou = copy.deepcopy(sam.mask_decoder).to(dtype)(*(part.to(dtype) for part in given), True)
    return logits.flatten(0, 1), iou.flatten()


@torch.no_grad()
def decoded(sam, embedding, xy, min_predicted_iou=KEEP_ALL, dtype=torch.float32):
    decode = SamPromptDecoder(sam, dtype=dtype)
    return decode(decode.share(embedding), xy, min_predicted_iou=min_predicted_iou)


def test_in_float64_logits_and_predicted_iou_are_sams_own(sam, embedding):
    fine = copy.deepcopy(sam)
    fine.mask_decoder.double()
    theirs = expected(sam, embedding, points(40), torch.float64)
    for ours, value in zip(decoded(fine, embedding.double(), points(40), dtype=torch.float64), theirs, strict=True):
        torch.testing.assert_close(ours, value, rtol=1e-10, atol=1e-10)


def test_in_float32_they_are_as_close_to_the_truth_as_sams(sam, embedding):
    truth = expected(sam, embedding, points(40), torch.float64)
    theirs = expected(sam, embedding, points(40))
    for ours, their, exact in zip(decoded(sam, embedding, points(40)), theirs, truth, strict=True):
        torch.testing.assert_close(ours, their, rtol=1e-5, atol=ROUNDING)
        assert (ours - exact).abs().mean() <= 1.25 * (their - exact).abs().mean()
        assert (ours - exact).abs().max() <= 2 * (their - exact).abs().max()


def test_predicted_iou_drops_before_upscaling_what_it_would_drop_after(sam, embedding):
    low, iou = expected(sam, embedding, points(40))
    threshold = float(iou.quantile(0.9))
    num_flops = []
    for bound in (9.0, KEEP_ALL, threshold):
        with FlopCounterMode(display=False) as counted:
            ours_low, ours_iou = decoded(sam, embedding, points(40), min_predicted_iou=bound)
        num_flops.append(counted.get_total_flops())
    none, every, few = num_flops
    is_kept = iou > threshold
    assert 1 < is_kept.sum() < len(iou) / 4
    assert 0 < 40 * (few - none) == is_kept.view(40, 3).any(1).sum() * (every - none)
    torch.testing.assert_close(ours_iou, iou[is_kept], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours_low, low[is_kept], rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("num_bytes", [1, 300_000])
def test_the_prompts_of_a_pass_are_bounded_by_bytes_and_decide_no_result(sam, embedding, monkeypatch, num_bytes):
    whole = decoded(sam, embedding, points(23))
    monkeypatch.setitem(pass_sizes.PROMPT_BYTES, "cpu", num_bytes)
    sizes = []
    # Each pass asks the head once.
    hook = sam.mask_decoder.iou_prediction_head.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    in_passes = decoded(sam, embedding, points(23))
    hook.remove()
    # The image has 8 x 8 tokens of width 32. Each of two heads has seven tokens of a prompt.
    assert max(sizes) == max(1, num_bytes // (4 * 64 * (3 * 32 + 2 * 2 * 7)))
    assert (sum(sizes), len(sizes) > 1) == (23, True)
    for one, other in zip(in_passes, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


def test_bfloat16_gives_nearly_the_same_masks(sam, embedding):
    low, iou = decoded(sam, embedding, points(40))
    coarse, coarse_iou = decoded(sam, embedding, points(40), dtype=torch.bfloat16)
    assert coarse.dtype == coarse_iou.dtype == torch.float32
    assert (low > 0).any()
    assert ((low > 0) == (coarse > 0)).float().mean() > 0.97
    assert (iou - coarse_iou).abs().max() < 0.05
    assert not torch.equal(low, coarse), "bfloat16 was asked for"

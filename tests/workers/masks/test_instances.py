"""Instances choose their proposals, a table finds the instances of an image, and a detector sees them."""

import logging
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import PriorConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import MasksLeft, ShardImage
from pseudoris.workers.masks.instances import (
    Instances,
    InstanceTable,
    build_prior,
    encode_box,
    load_detector,
    match_instances,
)
from pseudoris.workers.masks.proposals import Kept, Proposals
from pseudoris.workers.stages import prior_digest

SIZE = (40, 50)


def codes(*boxes):
    return tuple(encode_box(box, SIZE) for box in boxes)


def proposals_of(*boxes):
    counts = codes(*boxes)
    scores = np.full(len(boxes), 0.5, dtype=np.float32)
    return Proposals(SIZE, counts, tuple(rle.boxes(counts, SIZE)), rle.areas(counts, SIZE), scores, scores)


def instances_of(*boxes, rows=None):
    return Instances(codes(*boxes), tuple(rows or range(len(boxes))))


def match(proposals, instances, how="intersection", **settings):
    return match_instances(proposals, instances, PriorConfig(kind="table", path="t", match=how, **settings))


def match_in_paper(proposals, instances):
    prior = load_config("paper", assignments=["masks.prior.kind=table", "masks.prior.path=t"]).masks.prior
    return match_instances(proposals, instances, prior)


SMALL, LARGE, ELSEWHERE = (10, 10, 20, 20), (5, 5, 40, 35), (42, 2, 48, 8)


@pytest.mark.parametrize(
    ("masks", "instances", "how", "kept"),
    [
        ((SMALL, LARGE), [(10, 10, 22, 20)], "intersection", {1: 0}),
        ((SMALL, LARGE), [(10, 10, 22, 20)], "iou", {0: 0}),
        # Two instances that pick one mask keep it once, with the first row.
        ((SMALL, LARGE), [(6, 6, 9, 9), (30, 30, 36, 34)], "intersection", {1: 0}),
        # An instance that touches no mask is dropped.
        *(((SMALL,), [ELSEWHERE], "intersection", {}), ((), [SMALL], "intersection", {})),
        *(((SMALL,), [], "intersection", {}), ((), [], "intersection", {})),
    ],
    ids=["intersection", "iou", "one mask of two", "touches none", "no mask", "no instance", "neither"],
)
def test_an_instance_keeps_the_mask_that_fits_it_best(masks, instances, how, kept):
    found = match(proposals_of(*masks), instances_of(*instances), how)
    assert found == [Kept(mask, f"table:{row}") for mask, row in kept.items()]


def test_in_paper_a_mask_is_kept_once_for_each_instance_that_picks_it():
    three = instances_of((6, 6, 9, 9), (43, 3, 45, 6), (30, 30, 36, 34), rows=[17, 20, 23])
    found = match_in_paper(proposals_of(SMALL, LARGE, ELSEWHERE), three)
    assert found == [Kept(1, "table:17"), Kept(2, "table:20"), Kept(1, "table:23", copy=1)]


def test_in_paper_an_instance_that_touches_no_mask_takes_the_generators_first():
    alone = instances_of(ELSEWHERE, rows=[5])
    assert match_in_paper(proposals_of(SMALL, LARGE), alone) == [Kept(0, "table:5")]
    two = instances_of(SMALL, ELSEWHERE)
    assert match(proposals_of(SMALL), two, untouched="first_mask") == [Kept(0, "table:0")]
    assert match_in_paper(proposals_of(SMALL), two) == [Kept(0, "table:0"), Kept(0, "table:1", copy=1)]


@pytest.mark.slow
@given(st.lists(st.integers(0, 4), max_size=8), st.booleans())
def test_in_paper_masks_are_those_of_the_authors_loop(picks, has_stray):
    # Their loop, in words: per instance the first maximum of the overlaps in pixels, with nothing left out.
    # The last one has its highest IoU with another mask than its largest intersection.
    boxes = [SMALL, LARGE, ELSEWHERE, (0, 0, 9, 9), (10, 10, 22, 20)]
    seen = [boxes[pick] for pick in picks] + [(0, 38, 3, 40)] * has_stray
    proposals = proposals_of(SMALL, LARGE, ELSEWHERE)
    masks, instances = rle.decode(proposals.counts, SIZE), rle.decode(codes(*seen), SIZE)
    theirs = [int(np.argmax([(mask & instance).sum() for mask in masks])) for instance in instances]
    ours = match_in_paper(proposals, instances_of(*seen))
    assert sorted(kept.row for kept in ours) == sorted(theirs)


@given(st.tuples(*[st.floats(-3, 9, width=32)] * 4))
@example((0.5, 1.5, 2.5, 3.5))
def test_a_box_holds_the_pixels_whose_centres_lie_in_it(box):
    x0, y0, x1, y1 = box
    due = [[x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x in range(7)] for y in range(5)]
    assert rle.decode([encode_box(box, (5, 7))], (5, 7))[0].tolist() == due


TABLE_SIZE = (4, 4)
IMAGE_ID = "00000000000000aa"


def table_of(*names):
    return InstanceTable(enumerate(names), lambda row, size: f"code {row} {size}", where="prior.path=t.parquet")


def rows(table, key, image_id=IMAGE_ID):
    return table.instances(image_id, key, TABLE_SIZE).rows


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *((name, "sch%C3%B6n/a%20b.jpg") for name in ("sch%C3%B6n/a%20b.jpg", "schön/a b.jpg", "a b.jpg", "a%20b.jpg")),
        ("a.jpg", "train/a.jpg"),
        ("train/a.jpg", "a.jpg"),
        ("data/train/a.jpg", "train/a.jpg"),
        ("a.jpg", "00.tar!deep/a.jpg"),
        ("deep/a.jpg", "00.tar!deep/a.jpg"),
        ("file.parquet#3", "file.parquet#3"),
        ("data\\train\\a.jpg", "train/a.jpg"),
        ("train\\a.jpg", "train%5Ca.jpg"),
    ],
)
def test_an_image_is_found_percent_encoded_or_plain_and_where_one_path_ends_in_the_other(name, key):
    assert rows(table_of("other.jpg", name), key) == (1,)
    # The exact key wins.
    assert rows(table_of(name, key), key)[-1] == 1


def test_instances_of_an_image_keep_the_order_of_their_rows():
    table = table_of("a.jpg", "b.jpg", "a.jpg", "a.jpg")
    found = table.instances(IMAGE_ID, "a.jpg", TABLE_SIZE)
    assert (found.rows, found.counts) == ((0, 2, 3), tuple(f"code {row} {TABLE_SIZE}" for row in (0, 2, 3)))


def test_several_names_that_fit_are_refused():
    with pytest.raises(ConfigError, match=r"image a\.jpg fits several names: train/a\.jpg, val/a\.jpg; name images by"):
        rows(table_of("train/a.jpg", "val/a.jpg"), "a.jpg")


def test_an_image_without_rows_has_no_instances_and_is_named_once(caplog):
    table = table_of("a.jpg")
    with caplog.at_level(logging.WARNING):
        assert [rows(table, key) for key in ("b.jpg", "c.jpg")] == [(), ()]
    assert [record.getMessage() for record in caplog.records] == [
        "image b.jpg has no row in prior.path=t.parquet, so it gets no mask (logged once)"
    ]


class OneDetection(nn.Module):
    """Sees the upper left quarter of every image as an instance."""

    def forward(self, images):
        masks = torch.zeros(1, 1, *images[0].shape[-2:])
        masks[..., :32, :32] = 1.0
        return [{"scores": torch.ones(1), "masks": masks}]


def test_torchvision_names_the_detection_that_chose_a_mask(monkeypatch):
    monkeypatch.setattr("pseudoris.workers.masks.instances.load_detector", lambda path: OneDetection())
    config = load_config("tiny", assignments=["masks.prior.kind=torchvision", "masks.prior.path=cutler.pth"]).masks
    image, pixels = ShardImage(0, "0" * 16, "a.png"), np.zeros((*SIZE, 3), np.uint8)
    found = build_prior(config, torch.device("cpu"))(image, pixels, proposals_of(SMALL, (30, 20, 50, 40)))
    assert (found.kept, found.left) == ([Kept(0, "torchvision:0")], MasksLeft(prior=1))


def test_a_prior_that_is_unset_is_refused_with_both_ways_to_decide():
    unset = PriorConfig(kind="unset")
    masks = load_config("tiny").masks.model_copy(update={"prior": unset})
    for start in (lambda: build_prior(masks, torch.device("cpu")), lambda: prior_digest(unset)):
        with pytest.raises(
            ConfigError, match=r"docs/guides/masks\.md .* masks\.prior\.path=FILE.* masks\.prior\.kind=none"
        ):
            start()


@pytest.mark.slow
def test_a_checkpoint_of_torchvisions_mask_rcnn_is_loaded_with_its_classes(tmp_path):
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    path = tmp_path / "cutler.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    loaded = load_detector(str(path)).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    own, path = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), tmp_path / "v1.safetensors"
    save_file({name: each for name, each in own.items() if "num_batches" not in name}, path)
    assert {each.eps for each in load_detector(str(path)).modules() if hasattr(each, "running_var")} == {0.0}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.zeros(1)}, "other.pth has not roi_heads.*: give a checkpoint of torchvision's Mask"),
        ([1, 2], "other.pth is no table of tensors"),
        (None, r"other\.pth cannot be read as tensors"),
        ({"roi_heads.box_predictor.cls_score.bias": torch.zeros(2)}, "has not .* one of roi_heads.box_head.fc6.weight"),
        (
            dict.fromkeys(("roi_heads.box_predictor.cls_score.bias", "roi_heads.box_head.fc6.weight"), torch.zeros(2)),
            "does not fit torchvision's maskrcnn_resnet50_fpn",
        ),
    ],
)
def test_another_models_checkpoint_is_refused(tmp_path, state, message):
    path = tmp_path / "other.pth"
    if state is not None:
        torch.save(state, path)
    with pytest.raises(ConfigError, match=message):
        load_detector(str(path))


@st.composite
def tables(draw):
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values = st.lists(st.integers(0, 20), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    return np.array(draw(values)).reshape(shape) / 20


@given(tables())
def test_the_assignment_is_one_to_one_above_the_bound_and_no_other_has_a_larger_total(ious):
    pairs = rle.match_masks(ious)
    assert len(set(pairs.values())) == len(pairs)
    assert all(ious[pair] >= 0.5 for pair in pairs.items())
    worth = np.where(ious >= 0.5, ious, 0.0)
    wide = worth if worth.shape[0] <= worth.shape[1] else worth.T
    best = max(sum(wide[range(len(wide)), order]) for order in permutations(range(wide.shape[1]), len(wide)))
    assert sum(ious[pair] for pair in pairs.items()) == pytest.approx(best)

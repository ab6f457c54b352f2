"""Runs as pairs and as sources of the curriculum, and what a learner answers and selects of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric

from pseudoris.primitives.errors import ConfigError
from pseudoris.training.learning.mask_overlay import enlargement
from pseudoris.training.ppt.curriculum import SourceRuns, open_sources, select, select_referents
from pseudoris.training.ppt.pairs import (
    LabelFrame,
    PairDataset,
    PairSpec,
    PromptedPairs,
    PseudoLabels,
    masks_in_frame,
    points_in_box,
)
from pseudoris.training.ppt.ppt_config import PairsDataConfig
from pseudoris.training.ppt.ppt_learner import FrozenEncoders, PointAnswer, PointLearner, draw_answer
from tests.builders.head import free_ports
from tests.interchange.dataset.builders import BuiltRun, build_run
from tests.training.ppt.builders import RECIPE, UNDECIDED, small_config

ROWS = [
    (0, "the star on top", UNDECIDED),
    (1, "the star on top", RECIPE),
    (0, "the left star", UNDECIDED),
    (2, "the left star", UNDECIDED),
    (2, "a cup", RECIPE),
]
UNFLIPPED = PairsDataConfig(is_flipping=False)
SKIPPING = PairsDataConfig(is_flipping=False, on_bad_image="skip")
SPEC = PairSpec(num_points=5, frame=LabelFrame(64, 16))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return build_run(tmp_path_factory.mktemp("pairs"), num_shards=2, per_shard=2, rows=lambda number: ROWS).location


def test_the_rows_of_one_text_are_its_pseudo_masks_and_kept_is_the_confidence(run) -> None:
    pairs = PairDataset(run, SPEC)

    assert len(pairs) == 12
    found = {pairs[at].text: pairs[at].labels.confidences.tolist() for at in range(3)}
    assert found == {"the star on top": [1.0, 0.0], "the left star": [0.0, 0.0], "a cup": [1.0]}
    assert pairs.image(0).shape[0] == 3


def test_a_flip_mirrors_masks_and_points_and_spares_texts_that_name_a_side(run) -> None:
    # A cell a pixel of the images, 12 x 20: the masks say exactly what a point lies on.
    spec = replace(SPEC, num_points=64, frame=LabelFrame(20, 20))
    pairs, plain = PairDataset(run, spec), PairDataset(run, replace(spec, data=UNFLIPPED))
    flipped, labels = set(), set()
    for epoch in range(6):
        pairs.set_epoch(epoch)
        for at in range(len(pairs)):
            if pairs[at].is_flipped:
                flipped.add(pairs[at].text)
                labels.update(pairs[at].labels.labels.flatten().tolist())
                ours, theirs = pairs[at].labels.masks[:, :12], plain[at].labels.masks[:, :12]
                assert not torch.equal(ours, theirs)
                assert torch.equal(ours.flip(-1), theirs)
                _assert_labels_say_where_points_lie(pairs[at].labels)
    assert flipped == {"the star on top", "a cup"}
    assert labels == {0.0, 1.0}


def _assert_labels_say_where_points_lie(labels: PseudoLabels) -> None:
    for mask, xy, label in zip(
        labels.masks[:, :12], labels.points_xy * torch.tensor([20, 12]), labels.labels, strict=True
    ):
        # On an edge floating point decides.
        inner = (xy - xy.round()).abs().amin(-1) > 1e-3
        at = xy.floor().long()[inner]
        assert torch.equal(mask[at[:, 1], at[:, 0]], label[inner])


def test_selected_pairs_have_other_confidences_and_leave_the_old_ones_as_they_were(run) -> None:
    pairs = PairDataset(run, replace(SPEC, which="undecided"))

    chosen = pairs.selected([1] * len(pairs))

    assert chosen[0].labels.confidences.tolist() == [0.0, 1.0]
    assert pairs[0].labels.confidences.tolist() == [0.0, 0.0]
    assert torch.equal(chosen[0].labels.points_xy, pairs[0].labels.points_xy)
    with pytest.raises(ValueError, match="shorter"):
        pairs.selected([1])


def test_a_run_without_such_pairs_is_refused(tmp_path) -> None:
    built = build_run(tmp_path, num_shards=1, per_shard=1, rows=lambda number: [(0, "a cup", {})])

    with pytest.raises(ConfigError, match="has no pair of image and expression"):
        PairDataset(built.location, replace(SPEC, which="undecided"))


def test_embedded_images_of_more_than_memory_holds_are_refused(run) -> None:
    with pytest.raises(ConfigError, match=r"embeds more than max_memory_bytes=100 of images.*embed_images=false"):
        PairDataset(run, replace(SPEC, data=PairsDataConfig(max_memory_bytes=100)))


@pytest.fixture(scope="module")
def unflipped(run):
    return PairDataset(run, replace(SPEC, data=UNFLIPPED))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_points_lie_in_the_box_and_their_labels_say_whether_the_mask_holds_them(unflipped, key, seed) -> None:
    mask = np.random.default_rng(seed).random((7, 11)) > 0.8
    mask[3, 4] = True

    xy, labels = points_in_box(mask, 20, key)

    ys, xs = np.nonzero(mask)
    pixels = xy * np.array([11, 7])
    assert (pixels >= np.array([xs.min(), ys.min()]) - 1e-4).all()
    assert (pixels <= np.array([xs.max() + 1, ys.max() + 1]) + 1e-4).all()
    inner = np.abs(pixels - np.round(pixels)).min(-1) > 1e-3
    at = np.floor(pixels).astype(int)[inner]
    assert np.array_equal(mask[at[:, 1], at[:, 0]], labels[inner] == 1)
    # Uniform in the box: each of 4 x 4 parts has a sixteenth of the points, to eight standard deviations.
    many, low = points_in_box(mask, 4000, key)[0] * np.array([11, 7]), np.array([xs.min(), ys.min()])
    shares = (many - low) / (np.array([xs.max() + 1, ys.max() + 1]) - low)
    counts, *_ = np.histogram2d(*shares.T, bins=4, range=[[-1e-6, 1 + 1e-6]] * 2)
    assert counts.sum() == 4000
    assert np.abs(counts / 4000 - 1 / 16).max() < 0.03
    assert len({_points_of_epoch(unflipped, seed + later) for later in range(3)}) == 3


def _points_of_epoch(pairs: PairDataset, epoch: int) -> tuple[float, ...]:
    pairs.set_epoch(epoch)
    return tuple(pairs[0].labels.points_xy.flatten().tolist())


def test_a_mask_lies_in_the_decoders_frame_as_its_image_does() -> None:
    masks = torch.zeros(1, 32, 64, dtype=torch.bool)
    masks[0, :, :32] = True

    found = masks_in_frame(masks, LabelFrame(image_size=128, grid=32))

    assert found.shape == (1, 32, 32)
    assert (found[0, :16, :16] == 1).all()
    assert found.sum() == 16 * 16


PROMPTED = PairSpec(num_points=3, frame=LabelFrame(64, 16), data=UNFLIPPED)


def _run(folder, **options) -> BuiltRun:
    """One pair an image, decided; the images are files."""
    rows = [(0, "a star", RECIPE)]
    options = {"num_shards": 1, "is_embedding": False, "rows": lambda number: rows, **options}
    return build_run(folder, **options)


def _pairs(run, spec=PROMPTED, **options) -> PromptedPairs:
    return PromptedPairs([PairDataset(run.location, spec)], **options)


def test_an_image_that_is_held_is_not_read_again(tmp_path) -> None:
    run = _run(tmp_path, per_shard=3)
    (run.source / "s0-1.png").unlink()

    assert [each.image for each in _pairs(run, is_held=lambda key: True).__getitems__([0, 1])] == [None, None]


def test_the_next_pair_stands_in_for_one_whose_image_is_gone_and_is_counted(tmp_path) -> None:
    run = _run(tmp_path, per_shard=3)
    (run.source / "s0-1.png").unlink()
    pairs = _pairs(run, replace(PROMPTED, data=SKIPPING))

    keys = [each.image_key for each in pairs.__getitems__([0, 1, 2])]

    assert keys[1] == keys[2] != keys[0]
    assert pairs.num_skipped == 1
    assert [each is None for each in pairs.drawn([0, 1, 2])] == [False, True, False]


def test_pairs_without_a_usable_image_are_refused(tmp_path) -> None:
    run = _run(tmp_path, per_shard=3)
    for path in run.source.iterdir():
        path.unlink()

    with pytest.raises(ConfigError, match="No image of the 3 pairs can be used"):
        _pairs(run, replace(PROMPTED, data=SKIPPING))[0]


def test_pseudo_masks_that_no_query_can_take_are_left_out_with_a_warning_where_one_may_be_the_referent(
    tmp_path, caplog
) -> None:
    rows = [(mask, "one of them", UNDECIDED) for mask in range(5)]
    rows += [(mask, "the first of them", {**UNDECIDED, "kept": mask == 0}) for mask in range(5)]
    options = {"num_shards": 1, "per_shard": 2, "rows": lambda number: rows, "recipe": "pairs"}
    root = build_run(tmp_path / "run", **options).location.root
    runs, config = SourceRuns(h=(root,)), small_config(tmp_path, ["generator.num_queries=3"])

    with caplog.at_level("WARNING", logger="pseudoris.training"):
        found = open_sources(runs, config, LabelFrame(32, 16), runs.snapshots())

    assert [len(pair.labels.confidences) for pair in found["h_ref"][0]] == [3, 3]
    assert [record.getMessage().partition(", which")[0] for record in caplog.records] == [
        f"{root}: 2 texts without a referent have more pseudo-masks than the first 3"
    ]


def test_a_run_that_grows_is_read_as_it_was_when_its_snapshot_was_taken(tmp_path) -> None:
    built = _run(tmp_path / "run", num_shards=2, per_shard=2, recipe="objects", is_committed=False)
    built.commit(0)
    root = built.location.root
    runs = SourceRuns(d_sem=(root,), annotated=(root,))
    taken = runs.snapshots()
    saved = json.loads(json.dumps({root: taken[root].state()}))

    built.commit(1)

    for snapshots in (taken, runs.snapshots(saved)):
        found = open_sources(runs, small_config(tmp_path), LabelFrame(32, 16), snapshots)
        assert [len(part) for source in ("d_sem", "h_sem") for part in found[source]] == [2, 2]
    assert len(open_sources(runs, small_config(tmp_path), LabelFrame(32, 16), runs.snapshots())["d_sem"][0]) == 4


@pytest.mark.parametrize(
    ("name", "recipe", "said"),
    [
        ("h", None, "`pseudoris annotate`, but a run of `pseudoris ppt pairs` is needed"),
        ("d_sem", "compose", "`pseudoris ppt compose`, but a run of `pseudoris ppt objects` is needed"),
        ("d_ref", "pairs", "`pseudoris ppt pairs`, but a run of `pseudoris ppt compose` is needed"),
    ],
)
def test_a_run_of_another_command_is_refused_and_any_is_annotated(tmp_path, name, recipe, said) -> None:
    root = build_run(tmp_path / "run", num_shards=1, per_shard=1, recipe=recipe).location.root
    with pytest.raises(ConfigError, match=re.escape(f"{root} was written by {said}. Give such a run")):
        SourceRuns(**{name: (root,)}).snapshots()
    assert list(SourceRuns(annotated=(root,)).snapshots()) == [root]


def test_images_that_were_moved_are_read_where_they_lie_now(tmp_path) -> None:
    built = _run(tmp_path / "run", per_shard=2, recipe="objects")
    runs, frame = SourceRuns(d_sem=(built.location.root,)), LabelFrame(32, 16)
    (before,) = open_sources(runs, small_config(tmp_path), frame, runs.snapshots())["d_sem"]
    expected = before.image(0)
    moved = built.source.rename(tmp_path / "elsewhere")

    config = small_config(tmp_path, [f"data.moved={json.dumps({str(built.source): str(moved)})}"])
    (after,) = open_sources(runs, config, frame, runs.snapshots())["d_sem"]

    assert torch.equal(after.image(0), expected)
    assert config.decisive() == small_config(tmp_path).decisive()


UNDECIDED_ROWS = [(at, "the star left of the cup", UNDECIDED) for at in (0, 1)]


def small_learner(folder: Path) -> PointLearner:
    config = small_config(folder)
    return PointLearner(config, FrozenEncoders(config, torch.device("cpu")))


def test_a_wide_image_is_prompted_and_answered_in_its_own_axes(tmp_path) -> None:
    learner = small_learner(tmp_path)
    learner.module.eval()
    image = torch.arange(3 * 20 * 40, dtype=torch.int64).reshape(3, 20, 40).remainder(251).to(torch.uint8)

    answer = learner.predict("wide", image, ["a red star"])

    features = learner.encoders.encode(["wide"], [image], ["a red star"])
    # SAM sees a square of 32 pixels. Width before height, as x before y.
    assert features.sam.input_sizes.tolist() == [[32.0, 16.0]]
    with torch.no_grad():
        logits = learner.module.referent(features).mask_logits
    # The image is the upper half of the square.
    square = F.interpolate(logits[:, None].float(), (32, 32), mode="bilinear", align_corners=False)
    due = F.interpolate(square[..., :16, :32], (20, 40), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(answer.logits, due)


def test_points_are_discs_of_their_kind_where_they_lie_and_the_confidence_is_said() -> None:
    image, places = torch.full((3, 100, 150), 128, dtype=torch.uint8), torch.tensor([[[0.2, 0.3], [0.8, 0.6]]])
    sure = PointAnswer(torch.full((1, 100, 150), -1.0), places, torch.tensor([[True, False]]), torch.tensor([0.75]))
    answers = (sure, replace(sure, confidences=torch.tensor([0.5])))

    picture, unsure = (np.asarray(draw_answer(image, each, "the star").convert("RGB")).astype(int) for each in answers)

    scale = enlargement((100, 150))
    # Beside the sign in the middle of a disc.
    (positive, negative) = (picture[round(y * scale) - 3, round(x * scale) - 3] for x, y in ((30, 30), (120, 60)))
    assert positive[1] > 200 > positive[0]
    assert negative[0] > 200 > negative[1]
    assert abs(picture[round(80 * scale), round(30 * scale)] - 128).max() < 10
    # The sign of a positive point has an upright stroke.
    upright = [picture[round(y * scale) - 3, round(x * scale)] for x, y in ((30, 30), (120, 60))]
    assert upright[0].max() < 60 < upright[1].max()
    assert not np.array_equal(picture, unsure)


def columns(*ranges: tuple[int, int]) -> torch.Tensor:
    """Masks (E, 2, 8) of whole columns, from the first to below the second."""
    places = torch.arange(8).expand(len(ranges), 2, 8)
    starts, stops = torch.tensor(ranges).T[:, :, None, None]
    return (places >= starts) & (places < stops)


@pytest.mark.parametrize(
    ("pseudo_masks", "predicted", "min_iou", "due"),
    [
        # IoUs with columns 2 to 5: 2/6, 3/4, 0. Two of them reach the bound.
        ([(0, 4), (3, 6), (6, 8)], (2, 6), 0.3, [0.0, 1.0, 0.0]),
        ([(0, 4), (3, 6), (6, 8)], (2, 6), 0.75, [0.0, 1.0, 0.0]),
        # Below the bound all stay undecided.
        ([(0, 4), (3, 6), (6, 8)], (2, 6), 0.76, [0.0, 0.0, 0.0]),
        ([(0, 4), (3, 6), (6, 8)], (0, 0), 0.01, [0.0, 0.0, 0.0]),
        # Of equal ones the first.
        ([(0, 4), (0, 4)], (0, 4), 1.0, [1.0, 0.0]),
    ],
)
def test_the_pseudo_mask_of_the_highest_iou_is_the_referent_and_no_other(pseudo_masks, predicted, min_iou, due) -> None:
    assert select(columns(*pseudo_masks), columns(predicted)[0], min_iou=min_iou).tolist() == due


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_pair_whose_image_is_gone_stays_undecided(tmp_path, is_whole) -> None:
    run = build_run(tmp_path / "h", num_shards=1, per_shard=3, is_embedding=False, rows=lambda number: UNDECIDED_ROWS)
    if not is_whole:
        (run.source / "s0-1.png").unlink()
    learner = small_learner(tmp_path)
    spec = PairSpec(num_points=3, frame=learner.encoders.frame, which="undecided")
    pairs = PairDataset(run.location, replace(spec, data=SKIPPING))

    # At 0 every pair that is asked has a referent.
    found = select_referents(learner, [pairs], min_iou=0.0, fabric=Fabric(accelerator="cpu"))

    assert [at >= 0 for at in found] == [True, is_whole, True]


def test_two_processes_choose_what_one_does_and_both_know_all_of_it(tmp_path, monkeypatch) -> None:
    # Left alone, Fabric puts one there that each later launch of this process takes, free or not.
    monkeypatch.setenv("MASTER_PORT", str(free_ports(1)[0]))
    run = build_run(tmp_path / "h", num_shards=1, per_shard=5, rows=lambda number: UNDECIDED_ROWS)
    learner = small_learner(tmp_path)
    pairs = PairDataset(run.location, PairSpec(num_points=3, frame=learner.encoders.frame, which="undecided"))

    def choose(fabric: Fabric) -> list[int]:
        found = select_referents(learner, [pairs], min_iou=0.0, fabric=fabric)
        (tmp_path / f"{fabric.world_size}-{fabric.global_rank}.json").write_text(json.dumps(found))
        return found

    alone = choose(Fabric(accelerator="cpu"))
    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(choose)

    # Not the first of them each time, or nothing would tell one pair from another.
    assert set(alone) == {0, 1}
    assert [json.loads((tmp_path / f"2-{rank}.json").read_text()) for rank in (0, 1)] == [alone, alone]

"""Expressions of several masks, and of none, as samples: unions, empty masks, their share, resumes, refusals."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch

from pseudoris.interchange.dataset import (
    ExpressionFilter,
    JoinedDataset,
    MixedDataset,
    MixedIterableDataset,
    RisDataset,
    RisIterableDataset,
    SampleSpec,
    StreamOrder,
)
from pseudoris.primitives.errors import ConfigError
from tests.interchange.dataset.builders import build_run, composed_rows, default_rows

BOTH = SampleSpec(groups=True, none=0.25)


def by_count(samples):
    return Counter(sample["num_masks"] for sample in samples)


def test_a_group_is_the_union_of_its_masks_and_none_is_an_empty_one(composed):
    samples = list(RisDataset(composed.location, BOTH))
    single = {each["mask_id"]: each for each in samples if each["num_masks"] == 1}
    groups = [each for each in samples if each["num_masks"] == 2]
    assert len(single) == 24
    assert len(groups) == 12
    for group in groups:
        first, second = (single[each] for each in group["mask_id"].split("+"))
        assert torch.equal(group["mask"], first["mask"] | second["mask"])
        assert first["mask"].any()
        assert not torch.equal(group["mask"], first["mask"])
        ys, xs = group["mask"].nonzero(as_tuple=True)
        assert group["box_xyxy_px"].tolist() == [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        assert group["expressions"][0].startswith("the two of")
        assert torch.equal(group["image"], first["image"])
    for absent in (each for each in samples if each["num_masks"] == 0):
        assert absent["mask"].shape == absent["image"].shape[1:]
        assert not absent["mask"].any()
        assert absent["box_xyxy_px"].tolist() == [0, 0, 0, 0]
        assert absent["expressions"][0].startswith("none")
        assert absent["sources"] == ["composer"]


@pytest.mark.parametrize("none", [0.25, 0.5, 0.6, 0.1])
def test_a_share_of_the_samples_is_of_none(composed, none):
    found = by_count(RisDataset(composed.location, SampleSpec(parts=("text",), groups=True, none=none)))
    assert (found[1], found[2]) == (24, 12)
    # A shard's share is rounded, by up to one sample.
    assert abs(found[0] - 36 * none / (1 - none)) <= 3


def test_an_epoch_repeats_no_expression_of_none_before_all_are_used(composed):
    def drawn(none):
        samples = RisDataset(composed.location, SampleSpec(parts=("text",), none=none))
        return Counter(each["expressions"][0] for each in samples if not each["num_masks"])

    assert max(drawn(0.5).values()) == 1
    # 24 masks and 36 expressions of none: of 72, each comes twice.
    assert set(drawn(0.75).values()) == {2}
    assert len(drawn(0.75)) == 36


def test_epochs_draw_other_expressions_of_none_and_the_seed_chooses_the_images(composed):
    dataset = RisDataset(composed.location, SampleSpec(parts=("text",), none=0.1, seed=1))

    def said():
        return {each["mask_id"]: each["expressions"][0] for each in dataset if not each["num_masks"]}

    epochs = []
    for epoch in range(6):
        dataset.set_epoch(epoch)
        epochs.append(said())
    assert all(each.keys() == epochs[0].keys() for each in epochs)
    assert any(each != epochs[0] for each in epochs)
    others = [RisDataset(composed.location, SampleSpec(parts=("text",), none=0.1, seed=seed)) for seed in range(2, 8)]
    assert len({tuple(sorted(each.mask_ids())) for each in others}) > 1


def test_the_size_of_an_empty_mask_needs_no_image(composed):
    spec = SampleSpec(parts=("mask", "text"), none=0.25)
    sizes = {each["num_masks"]: each["mask"].shape for each in RisDataset(composed.location, spec)}
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("changed", [{"groups": False}, {"none": 0.5}, {"none": 0.0}])
def test_a_state_of_another_share_is_refused(composed, changed):
    saved = RisDataset(composed.location, BOTH).state_dict()
    other = RisDataset(composed.location, SampleSpec(**{"groups": True, "none": 0.25, **changed}))
    with pytest.raises(ConfigError, match=next(iter(changed))):
        other.load_state_dict(saved)


def test_off_a_run_with_both_gives_what_it_gave_without_them(composed, tmp_path):
    plain = build_run(tmp_path, rows=default_rows)
    found, expected = RisDataset(composed.location), RisDataset(plain.location)
    assert found.mask_ids() == expected.mask_ids()
    assert all("num_masks" not in each for each in found)
    streamed = RisIterableDataset(composed.location, order=StreamOrder(is_shuffled=False))
    for samples in (found, streamed):
        assert [each["expressions"] for each in samples] == [each["expressions"] for each in expected]
    assert not {"groups", "none"} & found.describe().keys()


@pytest.mark.parametrize("kind", [RisDataset, RisIterableDataset])
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (SampleSpec(groups=True), "groups=True, but the run at .* has no expression of several masks"),
        (SampleSpec(none=0.2), "none=0.2, but the run at .* has no expression of no mask"),
    ],
)
def test_a_run_without_such_expressions_is_refused(run, kind, spec, said):
    with pytest.raises(ConfigError, match=said):
        kind(run.location, spec)


def test_a_filter_that_keeps_no_such_expression_refuses_the_run(composed):
    with pytest.raises(ConfigError, match="no expression of no mask that passes"):
        RisDataset(composed.location, SampleSpec(where=ExpressionFilter(sources={"model"}), none=0.2))


def test_bounds_on_masks_hold_for_each_of_a_group_and_for_no_absence(composed):
    def found(**bounds):
        where = ExpressionFilter(bounds=bounds)
        return by_count(RisDataset(composed.location, SampleSpec(groups=True, none=0.25, where=where)))

    every = found(area_px=(0, None))
    assert (every[1], every[2]) == (24, 12)
    with pytest.raises(ConfigError, match=r"No expression .* passes the filter"):
        found(area_px=(10_000, None))


def test_joined_and_mixed_datasets_serve_both(composed, tmp_path):
    human = build_run(tmp_path, rows=partial(composed_rows, num_none=2), prefix="h")
    pseudo, plain = RisDataset(composed.location, BOTH), RisDataset(human.location, BOTH)
    assert by_count(JoinedDataset([pseudo, plain])) == by_count(pseudo) + by_count(plain)
    mixed = MixedDataset(pseudo, plain, human_share=0.4)
    assert by_count(mixed[at] for at in range(len(mixed)))[0] > by_count(pseudo)[0]
    stream = MixedIterableDataset(RisIterableDataset(composed.location, BOTH), plain, human_share=0.4)
    assert by_count(stream).keys() == {0, 1, 2}


def test_absences_that_end_in_a_side_are_not_reworded(tmp_path):
    def rows(number):
        *others, first = composed_rows(number, num_none=1)
        return [*others, (first[0], "the star on the left", first[2])]

    run = build_run(tmp_path, rows=rows, num_shards=1)
    dataset = RisDataset(run.location, SampleSpec(parts=("text",), none=0.3, rewording=True))
    for epoch in range(8):
        dataset.set_epoch(epoch)
        assert {each["expressions"][0] for each in dataset if not each["num_masks"]} == {"the star on the left"}


@pytest.mark.parametrize("draw", ["pseudo_ris", "weighted"])
def test_other_draws_take_both_too(composed, draw):
    dataset = RisDataset(composed.location, SampleSpec(parts=("text",), draw=draw, groups=True, none=0.25))
    found = by_count(dataset)
    assert (found[1], found[2]) == (24, 12)
    assert 9 <= found[0] <= 15
    assert (dataset.best_weights() > 0).all()

"""Map-style: the same samples as the stream's, by number; among them expressions of several masks, and of none."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset import (
    ExpressionFilter,
    JoinedDataset,
    MixedDataset,
    MixedIterableDataset,
    RisDataset,
    RisIterableDataset,
    SampleSpec,
    Snapshot,
    StreamOrder,
    collate_lists,
)
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.sessions.combined_run import combine
from tests.interchange.dataset.builders import build_run, composed_rows, default_rows


def equal(one, other):
    tensors = all(torch.equal(one[name], other[name]) for name in ("image", "mask", "box_xyxy_px"))
    pairs = [(values, other["scores"][name]) for name, values in one["scores"].items()]
    scores = all(torch.allclose(*pair, rtol=0, atol=0, equal_nan=True) for pair in pairs)
    rest = one.keys() - {"image", "mask", "box_xyxy_px", "scores"}
    return one.keys() == other.keys() and tensors and scores and all(one[name] == other[name] for name in rest)


@pytest.mark.parametrize("is_embedding", [True, False])
@pytest.mark.parametrize("epoch", [0, 5])
def test_both_styles_give_the_same_samples(tmp_path, is_embedding, epoch):
    run = build_run(tmp_path, is_embedding=is_embedding)
    mapped = assert_alike(run, SampleSpec(expressions_per_mask=2, seed=7), StreamOrder(), epoch)
    assert len(mapped) == 24
    assert equal(mapped[-1], mapped[23])


@pytest.mark.parametrize("uneven", ["keep", "drop"])
def test_both_styles_give_the_same_groups_and_absences(composed, uneven):
    assert_alike(composed, SampleSpec(groups=True, none=0.25), StreamOrder(uneven=uneven), epoch=0)


def assert_alike(run, spec, order, epoch):
    mapped, stream = RisDataset(run.location, spec), RisIterableDataset(run.location, spec, order=order)
    mapped.set_epoch(epoch)
    stream.set_epoch(epoch)
    by_mask = {sample["mask_id"]: sample for sample in stream}
    assert len(mapped) == len(by_mask)
    assert all(equal(sample, by_mask[sample["mask_id"]]) for sample in mapped)
    return mapped


def test_every_mask_has_the_digest_of_its_image_and_a_shard_without_masks_has_none(tmp_path):
    text = [(0, "a text", {})]
    run = build_run(tmp_path, num_shards=3, per_shard=1, rows=lambda number: [] if number == 1 else text)
    digests = RisDataset(run.location).image_digests()
    assert [len(each) for each in digests] == [64, 64]
    with pytest.raises(ConfigError, match="Add 'image' to parts"):
        RisDataset(run.location, SampleSpec(parts=("text",))).image_digests()


def test_a_loader_with_workers_gives_every_mask_and_draws_by_the_epoch(run):
    dataset = RisDataset(run.location, SampleSpec(parts=("text",)))
    sampler = RandomSampler(dataset, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(dataset, 5, sampler=sampler, num_workers=2, persistent_workers=True, collate_fn=collate_lists)
    epochs = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        batches = list(loader)
        drawn = {m: t[0] for b in batches for m, t in zip(b["mask_id"], b["expressions"], strict=True)}
        assert sorted(drawn) == dataset.mask_ids() or set(drawn) == set(dataset.mask_ids())
        epochs.append(drawn)
    assert epochs[0] == epochs[2] != epochs[1]


def test_a_run_that_embeds_more_than_memory_is_to_hold_is_refused(run):
    with pytest.raises(ConfigError, match=r"embeds .* up to max_memory_bytes=1,000.*Use RisIterableDataset"):
        RisDataset(run.location, max_memory_bytes=1_000)
    assert len(RisDataset(run.location, SampleSpec(parts=("mask",)), max_memory_bytes=1_000)) == 24


@pytest.mark.parametrize("how", ["missing", "changed"])
def test_a_bad_image_is_named_or_another_mask_stands_in_for_its_own(tmp_path, how):
    run = build_run(tmp_path, is_embedding=False)
    shutil.copy(run.source / "s1-2.png", run.source / "s0-0.png")
    if how == "missing":
        (run.source / "s0-0.png").unlink()
    with pytest.raises(ConfigError, match=rf"image s0-0.png of .* cannot be used \({how}"):
        RisDataset(run.location)[0]
    skipping = RisDataset(run.location, SampleSpec(on_bad_image="skip"))
    assert [skipping[at]["key"] for at in (0, 1, 2)] == ["s0-1.png"] * 3
    assert skipping.num_skipped == 3


def test_a_state_brings_its_snapshot_and_epoch_along(tmp_path):
    run = build_run(tmp_path, is_committed=False)
    run.commit(0)
    dataset = RisDataset(run.location, SampleSpec(parts=("text",)))
    dataset.set_epoch(4)
    state = dataset.state_dict()
    run.commit(1, 2)
    grown = RisDataset(run.location, SampleSpec(parts=("text",)))
    assert len(grown) == 24
    grown.load_state_dict(state)
    assert (len(grown), grown.epoch) == (8, 4)
    assert [grown[at] for at in range(8)] == [dataset[at] for at in range(8)]
    with pytest.raises(ConfigError, match="seed: 0 saved, 1 now"):
        RisDataset(run.location, SampleSpec(seed=1)).load_state_dict(state)
    for version in (None, 9):
        with pytest.raises(ConfigError, match=rf"the state of the dataset is of version {version}, .* version 2 alone"):
            grown.load_state_dict({**state, "version": version})
    assert len(RisDataset(run.location, snapshot=Snapshot.from_state(run.location, state["dataset"]["snapshot"]))) == 8


TEXTS = SampleSpec(parts=("text",))


@pytest.fixture
def runs(tmp_path):
    return [
        RisDataset(build_run(tmp_path / prefix, prefix=prefix, num_shards=count).location, TEXTS)
        for prefix, count in (("a", 2), ("b", 1))
    ]


def test_runs_follow_each_other(runs):
    joined = JoinedDataset(runs)
    joined.set_epoch(3)
    plain = [run[at] for run in runs for at in range(len(run))]
    assert len(joined) == len(plain) == 24
    assert [joined[at] for at in range(len(joined))] == plain
    assert joined.__getitems__([20, 1, 15]) == [plain[20], plain[1], plain[15]]
    assert joined[-1] == plain[-1]
    assert joined.mask_ids() == [sample["mask_id"] for sample in plain]


@pytest.mark.parametrize("human_share", [None, 0.6])
def test_a_mix_names_the_mask_of_every_item_of_its_epoch(runs, human_share):
    mixed = MixedDataset(JoinedDataset(runs[:1]), runs[1], fraction=0.5, human_share=human_share)
    for epoch in (0, 1):
        mixed.set_epoch(epoch)
        assert mixed.mask_ids() == [mixed[at]["mask_id"] for at in range(len(mixed))]


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


def combined(folder, **are_embedding):
    """Return runs over images of their own, by name, and where they are combined."""
    runs = {name: build_run(folder / name, is_embedding=each) for name, each in are_embedding.items()}
    for run in runs.values():
        write_manifest(run.location)
    combine([(name, run.location) for name, run in runs.items()], both := RunLocation.open(str(folder / "both")))
    return runs, both


def test_of_a_combined_run_only_what_is_embedded_is_held_in_memory(tmp_path):
    runs, both = combined(tmp_path, inside=True, beside=False)
    runs["beside"].source.rename(tmp_path / "away")
    # Images of SOURCE are not read before their samples are.
    samples = RisDataset(both)
    (tmp_path / "away").rename(runs["beside"].source)
    own = [RisDataset(run.location) for run in runs.values()]
    assert len(samples) == sum(map(len, own))
    assert all(
        torch.equal(one["image"], other["image"]) for one, other in zip(samples, JoinedDataset(own), strict=True)
    )


def test_a_name_that_no_combined_run_has_is_refused_as_a_place_of_images(tmp_path):
    runs, both = combined(tmp_path, v1=False, v2=False)
    moved = {"v1": str(runs["v1"].source), "/elsewhere": "/unused"}
    assert len(RisDataset(both, SampleSpec(source=moved)))
    with pytest.raises(ConfigError, match=r"no images 'v3' to be moved: .*both has the names v1, v2"):
        RisDataset(both, SampleSpec(source={**moved, "v3": "/elsewhere"}))

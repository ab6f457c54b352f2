"""Map-style: the same samples as the stream's, by number."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from pseudoris.interchange.dataset import (
    JoinedDataset,
    MixedDataset,
    RisDataset,
    RisIterableDataset,
    SampleSpec,
    Snapshot,
    StreamOrder,
    collate_lists,
)
from pseudoris.primitives.errors import ConfigError
from tests.interchange.dataset.builders import build_run


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

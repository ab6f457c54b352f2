"""Machine and human: how much of each, which, and that ranks and resumes agree on it."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest

from pseudoris.interchange.dataset import (
    ExpressionFilter,
    MixedDataset,
    MixedIterableDataset,
    ResumableLoader,
    RisDataset,
    RisIterableDataset,
    SampleSpec,
    Snapshot,
    StreamOrder,
    collate_lists,
)
from pseudoris.interchange.dataset.mixed_dataset import choose_fraction
from pseudoris.primitives.errors import ConfigError
from tests.interchange.dataset.builders import build_run

TEXT = SampleSpec(parts=("text",))
BY_HAND = {"source": "human", "samples": (), "distinctiveness": None, "correctness": None}


@pytest.fixture
def human(tmp_path):
    """Twenty human masks of three expressions each."""

    def rows(number):
        return [(0, f"human {number} {at}", BY_HAND) for at in range(3)]

    run = build_run(tmp_path / "human", num_shards=2, per_shard=10, rows=rows, prefix="human-")
    return RisDataset(run.location, TEXT)


@pytest.fixture
def pseudo(run):
    return RisDataset(run.location, TEXT)


def origins(samples):
    return Counter(sample["sources"][0] for sample in samples)


def test_a_fraction_lies_within_every_larger_one_and_is_exact():
    masks = [f"{number:016x}-0000" for number in range(1_000)]
    chosen = [set(choose_fraction(masks, fraction, 0).tolist()) for fraction in (0, 0.0001, 0.01, 0.05, 0.1, 1)]
    assert [len(each) for each in chosen] == [0, 1, 10, 50, 100, 1_000]
    assert all(smaller <= larger for smaller, larger in itertools.pairwise(chosen))
    assert set(choose_fraction(masks, 0.1, 1).tolist()) != chosen[4]
    turned = masks[::-1]
    assert {turned[at] for at in choose_fraction(turned, 0.1, 0)} == {masks[at] for at in chosen[4]}


def test_all_of_the_machines_and_a_fraction_of_the_humans(pseudo, human):
    # 4.6 of 20 masks: the nearest whole number.
    mixed = MixedDataset(pseudo, human, fraction=0.23)
    samples = [mixed[at] for at in range(len(mixed))]
    assert (len(mixed), mixed.num_human) == (29, 5)
    assert origins(samples) == {"model": 24, "human": 5}
    assert len({sample["mask_id"] for sample in samples}) == 29
    chosen = {sample["mask_id"] for sample in samples[24:]}
    mixed.set_epoch(8)
    assert {mixed[at]["mask_id"] for at in range(24, 29)} == chosen
    assert [mixed[at]["expressions"] for at in range(29)] != [sample["expressions"] for sample in samples]
    assert mixed[-1] == mixed[28]


def test_a_share_repeats_humans_evenly_with_other_draws(pseudo, human):
    mixed = MixedDataset(pseudo, human, fraction=0.25, human_share=0.5)
    assert len(mixed) == 48
    found = Counter(mixed[at]["mask_id"] for at in range(24, 48))
    assert sorted(found.values()) == [4, 5, 5, 5, 5]
    texts = {(mixed[at]["mask_id"], mixed[at]["expressions"][0]) for at in range(24, 48)}
    assert len(texts) > 5


def open_stream(run, human, *, rank=0, world_size=1, **mix):
    order = StreamOrder(buffer_images=3, rank=rank, world_size=world_size, uneven="drop")
    return MixedIterableDataset(RisIterableDataset(run.location, TEXT, order=order), human, **mix)


def test_a_stream_holds_each_machine_sample_once_and_humans_by_their_share(run, human):
    stream = open_stream(run, human, fraction=0.5, human_share=0.4)
    counts = Counter()
    for epoch in range(20):
        stream.set_epoch(epoch)
        samples = list(stream)
        assert origins(samples)["model"] == 24
        counts += origins(samples)
    assert 0.34 < counts["human"] / counts.total() < 0.46
    assert open_stream(run, human, fraction=0.5).human_share == 10 / 34


def test_ranks_of_a_stream_are_even_and_their_humans_apart(run, human):
    epochs = [list(open_stream(run, human, rank=rank, world_size=2, human_share=0.4)) for rank in range(2)]
    assert len(epochs[0]) == len(epochs[1])
    humans = [{s["mask_id"] for s in samples if s["sources"] == ["human"]} for samples in epochs]
    assert all(humans)
    assert not humans[0] & humans[1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_resumes_where_it_was_stopped(run, human, num_workers):
    def load():
        stream = open_stream(run, human, human_share=0.4)
        return ResumableLoader(stream, collate_fn=collate_lists, batch_size=3, num_workers=num_workers)

    def facts(batches):
        return [(batch["mask_id"], batch["expressions"]) for batch in batches]

    full, first, second = facts(load()), load(), load()
    batches = iter(first)
    head = facts(itertools.islice(batches, 5))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert head + facts(second) == full


def test_a_state_of_another_mix_or_other_humans_is_refused(run, human, tmp_path):
    state = open_stream(run, human, fraction=0.5).state_dict()
    with pytest.raises(ConfigError, match=r"mix: .* saved, .* now"):
        open_stream(run, human, fraction=0.4).load_state_dict(state)
    others = RisDataset(build_run(tmp_path / "others").location, TEXT)
    with pytest.raises(ConfigError, match="The human annotation differs from the saved one"):
        open_stream(run, others, fraction=0.5).load_state_dict(state)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"fraction": 1.5}, "fraction is 1.5. Give the share"),
        ({"human_share": 1.0}, "human_share is 1.0. Give a share"),
        ({"fraction": 0, "human_share": 0.5}, "no human mask is selected"),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused(pseudo, human, mix, message):
    with pytest.raises(ConfigError, match=message):
        MixedDataset(pseudo, human, **mix)


def test_a_stream_whose_machine_gives_nothing_now_or_at_the_saved_snapshot_is_refused(run, human, tmp_path):
    nothing = SampleSpec(parts=("text",), where=ExpressionFilter(words=(99, None)))
    with pytest.raises(ConfigError, match="The pseudo-labelled run gives no samples"):
        MixedIterableDataset(RisIterableDataset(run.location, nothing), human)
    growing = build_run(
        tmp_path, is_committed=False, num_shards=2, rows=lambda number: [(0, "a star", BY_HAND if number < 4 else {})]
    )
    spec = SampleSpec(parts=("text",), where=ExpressionFilter(sources=frozenset({"model"})))
    growing.commit(0)
    small = Snapshot.take(growing.location)
    growing.commit(1)
    stream = MixedIterableDataset(RisIterableDataset(growing.location, spec), human)
    state = stream.state_dict()
    state["dataset"]["snapshot"]["pseudo"] = small.state()
    with pytest.raises(ConfigError, match="The pseudo-labelled run gives no samples"):
        stream.load_state_dict(state)


def test_what_stands_in_for_a_bad_image_is_a_chosen_mask_too(run, tmp_path):
    rows = [(0, "by hand", BY_HAND), (1, "by hand too", BY_HAND)]
    built = build_run(tmp_path / "human", per_shard=10, rows=lambda number: rows, prefix="human-", is_embedding=False)
    spec = SampleSpec(parts=("image", "text"), on_bad_image="skip")
    human = RisDataset(built.location, spec)
    ids = human.mask_ids()
    chosen = [ids[at] for at in choose_fraction(ids, 0.2, 0)]
    bad = human[ids.index(chosen[1])]["key"]
    (built.source / bad).unlink()
    mixed = MixedDataset(RisDataset(run.location, spec), human, fraction=0.2)
    found = [mixed[at] for at in range(24, len(mixed))]
    assert len(found) == 12
    assert {sample["mask_id"] for sample in found} < set(chosen)
    assert bad not in {sample["key"] for sample in found}
    assert mixed.num_skipped == human.num_skipped > 0
    pseudo = RisIterableDataset(run.location, spec)
    stream = MixedIterableDataset(pseudo, human, fraction=0.2, human_share=0.6)
    strewn = {sample["mask_id"] for sample in stream if sample["sources"] == ["human"]}
    assert strewn < set(chosen)

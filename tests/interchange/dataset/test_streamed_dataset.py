"""A stream's order and shares, and resuming: the batches after it are those that would have followed."""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, get_worker_info

from pseudoris.interchange.dataset import (
    ExpressionFilter,
    ResumableLoader,
    RisIterableDataset,
    SampleSpec,
    StreamOrder,
    collate_lists,
)
from pseudoris.interchange.dataset.stream_order import (
    Stream,
    equal_slices,
    interleaved,
    samples_per_rank,
    whole_shards,
)
from pseudoris.primitives.counter_rng import permutation
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.runs.manifest import write_manifest
from tests.interchange.dataset.builders import build_run

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 4))
COUNTS = st.lists(st.integers(0, 9), max_size=12)


def streams(world_size, num_workers):
    return [
        [Stream(rank, world_size, worker, num_workers) for worker in range(num_workers)] for rank in range(world_size)
    ]


@given(SIZES, st.integers(0, 40), st.integers(0, 2**32))
def test_whole_shards_are_read_once_each_in_numbers_that_differ_by_one_a_rank(sizes, num_shards, key):
    order = permutation(key, num_shards)
    ranks = [[part.row for stream in of_rank for part in whole_shards(order, stream)] for of_rank in streams(*sizes)]
    assert sorted(row for rows in ranks for row in rows) == list(range(num_shards))
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1


def taken(order, counts, stream, uneven):
    """The samples of a stream, (row, place) each."""
    slices = equal_slices(order, counts, stream, uneven)
    assert all(0 <= part.start < part.stop <= counts[part.row] for part in slices)
    return [(part.row, at) for part in slices for at in range(part.start, part.stop)]


@pytest.mark.parametrize("uneven", ["pad", "drop"])
@given(sizes=SIZES, counts=COUNTS, key=st.integers(0, 2**32))
def test_even_ranks_have_as_many_and_repeat_or_drop_fewer_than_there_are_ranks(uneven, sizes, counts, key):
    order, counts = permutation(key, len(counts)), np.array(counts, np.int64)
    ranks = [[taken(order, counts, stream, uneven) for stream in of_rank] for of_rank in streams(*sizes)]
    found = Counter(sample for of_rank in ranks for stream in of_rank for sample in stream)
    due = Counter((row, at) for row, count in enumerate(counts) for at in range(count))
    repeated, dropped = found - due, due - found
    assert not (dropped if uneven == "pad" else repeated)
    assert repeated.total() + dropped.total() < max(sizes[0], 1)
    assert {sum(map(len, of_rank)) for of_rank in ranks} == {samples_per_rank(due.total(), sizes[0], uneven)}
    # Batches too: worker w of every rank has as many.
    assert all(len({len(of_rank[worker]) for of_rank in ranks}) == 1 for worker in range(sizes[1]))


@dataclass(frozen=True)
class Image:
    number: int
    num_masks: int
    size_bytes: int = 1


IMAGES = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 8)), max_size=30).map(
    lambda sizes: [Image(number, *size) for number, size in enumerate(sizes)]
)


def pairs(drawn):
    return [(image.number, mask) for image, mask, _ in drawn]


@given(IMAGES, st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**32))
def test_every_mask_comes_once_from_no_more_images_than_the_buffer_holds(images, num_images, size_bytes, key):
    order = StreamOrder(buffer_images=num_images, buffer_bytes=size_bytes)
    entered: list[Image] = []
    left: set[int] = set()
    drawn = []
    for drawn_of, mask, is_last in interleaved((entered.append(image) or image for image in images), order, key):
        drawn.append((drawn_of, mask, is_last))
        # The newest may be one that is looked at ahead, to see whether it fits.
        held = [image for image in entered if image.number not in left]
        assert len(held) <= num_images + 1
        assert len(held) <= 2 or sum(image.size_bytes for image in held[:-1]) <= size_bytes
        if is_last:
            left.add(drawn_of.number)
    assert sorted(pairs(drawn)) == [(image.number, mask) for image in images for mask in range(image.num_masks)]
    assert pairs(interleaved(images, order, key)) == pairs(drawn)


def test_images_that_left_give_their_bytes_back():
    # Two fit at a time. Were no byte given back, each image after these would wait until the buffer is empty.
    images = [Image(number, num_masks=1) for number in range(50)]
    order = StreamOrder(buffer_images=50, buffer_bytes=2)
    drawn = [image.number for image, *_ in interleaved(images, order, 5)]
    assert sum(earlier > later for earlier, later in pairwise(drawn[4:])) > 10


def test_masks_of_one_image_are_spread_over_the_buffer():
    images = [Image(number, 20) for number in range(400)]
    order = [image.number for image, *_ in interleaved(images, StreamOrder(buffer_images=64, buffer_bytes=10**9), 3)]
    middle = order[2_000:6_000]
    batches = [middle[at : at + 32] for at in range(0, 4_000 - 31, 32)]
    repeats = [32 - len(set(batch)) for batch in batches]
    # 32 draws from 64 images repeat 6.8 of them on average, had every image as many masks left.
    assert 5 < sum(repeats) / len(repeats) < 12


TEXT = SampleSpec(parts=("text",))


def open_loader(run, *, num_workers=0, spec=TEXT, order=None, epoch=3, **options):
    order = order or StreamOrder(buffer_images=3)
    dataset = RisIterableDataset(run.location, spec, order=order)
    loader = ResumableLoader(dataset, collate_fn=collate_lists, batch_size=3, num_workers=num_workers, **options)
    loader.set_epoch(epoch)
    return loader


def facts(batches):
    return [list(zip(batch["mask_id"], batch["expressions"], strict=True)) for batch in batches]


def interrupted(run, num_batches, **options):
    """Batches taken before a stop, its state as it would be stored, and those taken after it by another loader."""
    first = open_loader(run, **options)
    batches = iter(first)
    head = facts(itertools.islice(batches, num_batches))
    state = json.loads(json.dumps(first.state_dict()))
    del batches
    second = open_loader(run, **{**options, "epoch": 0})
    second.load_state_dict(state)
    return head, state, facts(second)


@pytest.mark.parametrize(("num_workers", "places"), [(0, range(9)), pytest.param(2, (1, 4, 7), marks=pytest.mark.slow)])
def test_a_resumed_epoch_is_the_uninterrupted_one(run, num_workers, places):
    due = facts(open_loader(run, num_workers=num_workers))
    for num_batches in places:
        head, _, tail = interrupted(run, num_batches, num_workers=num_workers)
        assert head + tail == due, num_batches


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_with_groups_and_none_resumes_where_it_was_stopped(composed, num_workers):
    options = {"spec": SampleSpec(parts=("text",), groups=True, none=0.25), "num_workers": num_workers}
    head, _, tail = interrupted(composed, 4, **options)
    assert head + tail == facts(open_loader(composed, **options))


def test_without_a_batch_size_samples_come_one_by_one_as_from_torchs_loader(run):
    own, torchs = (kind(RisIterableDataset(run.location), batch_size=None) for kind in (ResumableLoader, DataLoader))
    assert [each["mask_id"] for each in own] == [each["mask_id"] for each in torchs]


def test_it_resumes_over_bad_images(tmp_path):
    run = build_run(tmp_path, is_embedding=False)
    (run.source / "s1-2.png").unlink()
    (run.source / "s0-1.png").unlink()
    options = {"spec": SampleSpec(on_bad_image="skip"), "order": StreamOrder(buffer_images=3, uneven="drop")}
    for num_batches in (1, 4, 7):
        head, _, tail = interrupted(run, num_batches, **options)
        assert head + tail == facts(open_loader(run, **options))
        assert sum(map(len, head + tail)) == 24


def test_what_lies_before_the_place_is_passed_over_without_masks_and_images(run, reads):
    options = {"spec": SampleSpec(), "order": StreamOrder(is_shuffled=False)}
    _, state, _ = interrupted(run, 6, **options)
    second = open_loader(run, **options)
    second.load_state_dict(state)
    reads.ranges.clear()
    list(second)
    # Two shards of eight masks, and two masks of the third, were taken.
    assert sum(path.startswith("masks/") for path in reads.ranges) == 1


def test_a_growing_run_is_resumed_on_the_manifest_that_was_begun(tmp_path):
    run = build_run(tmp_path, is_committed=False)
    run.commit(0)
    write_manifest(run.location)
    due = facts(open_loader(run))
    head, state, _ = interrupted(run, 1)
    assert state["dataset"]["snapshot"]["manifest"] == 1
    run.commit(1, 2)
    write_manifest(run.location)
    second = open_loader(run)
    assert second.dataset.snapshot.manifest == 2
    second.load_state_dict(state)
    assert head + facts(second) == due


def test_a_state_saved_after_a_refresh_is_the_beginning_of_the_larger_run(tmp_path):
    run = build_run(tmp_path, is_committed=False)
    run.commit(0)
    loader, other = open_loader(run), open_loader(run)
    list(loader)
    run.commit(1, 2)
    loader.dataset.refresh()
    other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert facts(other) == facts(open_loader(run))
    assert sum(map(len, facts(loader))) == 24


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_state_saved_between_set_epoch_and_the_first_batch_is_the_epochs_beginning(run, num_workers):
    due = facts(open_loader(run, num_workers=num_workers, epoch=1))
    for num_batches in (2, 99):
        loader = open_loader(run, num_workers=num_workers, epoch=0)
        list(itertools.islice(loader, num_batches))
        loader.set_epoch(1)
        other = open_loader(run, num_workers=num_workers)
        other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert facts(other) == due, num_batches


def test_a_state_that_was_loaded_is_saved_again_and_holds_for_its_epoch_alone(run):
    head, state, tail = interrupted(run, 3)
    loader = open_loader(run)
    loader.load_state_dict(state)
    assert loader.state_dict() == loader.dataset.state_dict() == state
    loader.set_epoch(9)
    assert loader.state_dict()["streams"] == {}
    loader.set_epoch(3)
    assert loader.state_dict() == state
    whole = facts(open_loader(run))
    assert head + facts(loader) == whole == head + tail
    # Epochs after the resumed one begin at their beginning, and so does the same one again.
    loader.set_epoch(4)
    assert facts(loader) == facts(open_loader(run, epoch=4))
    loader.set_epoch(3)
    assert facts(loader) == whole


@pytest.mark.slow
@pytest.mark.parametrize("num_before", [0, 1, 99])
def test_workers_that_live_on_go_on_where_a_state_was_saved(run, num_before):
    _, state, tail = interrupted(run, 1, num_workers=2)
    loader = open_loader(run, num_workers=2, persistent_workers=True)
    list(itertools.islice(loader, num_before))
    loader.load_state_dict(state)
    # By its end a worker has forgotten what was loaded, and takes it up again where the resumed epoch was left.
    assert facts(itertools.islice(loader, len(tail) - 1)) == tail[:-1]
    assert facts(loader) == tail
    loader.set_epoch(4)
    assert facts(loader) == facts(open_loader(run, num_workers=2, epoch=4))


def test_workers_that_live_on_see_a_refresh(tmp_path):
    run = build_run(tmp_path, is_committed=False)
    run.commit(0)
    loader = open_loader(run, num_workers=1, persistent_workers=True)
    assert sum(map(len, facts(loader))) == 8
    run.commit(1, 2)
    loader.dataset.refresh()
    assert facts(loader) == facts(open_loader(run, num_workers=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": SampleSpec(parts=("text",), seed=1)}, "seed: 0 saved, 1 now"),
        ({"spec": SampleSpec(parts=("text",), draw="pseudo_ris")}, "draw: .* saved, .* now"),
        ({"spec": SampleSpec(parts=("text",), where=ExpressionFilter(words=(2, 3)))}, "where: .* saved, .* now"),
        ({"order": StreamOrder(buffer_images=4)}, "buffer_images: 3 saved, 4 now"),
        ({"order": StreamOrder(buffer_images=3, rank=1, world_size=2)}, "rank: 0 saved, 1 now; world_size: 1 saved"),
    ],
)
def test_a_state_of_other_settings_is_refused_by_their_names(run, options, message):
    state = open_loader(run).state_dict()
    with pytest.raises(ConfigError, match=message):
        open_loader(run, **options).load_state_dict(state)


def test_a_state_of_another_number_of_workers_or_version_is_refused(run):
    _, state, _ = interrupted(run, 2)
    loader = open_loader(run, num_workers=2)
    loader.load_state_dict(state)
    with pytest.raises(ConfigError, match=r"saved with 1 stream\(s\) per rank, but now there are 2"):
        next(iter(loader))
    # Its workers have ended with it.
    assert not multiprocessing.active_children()
    said = "the state of the dataset is of version 9, and this pseudoris reads version 2 alone"
    with pytest.raises(ConfigError, match=said):
        open_loader(run).load_state_dict({**state, "version": 9})


class AskingWorkers:
    """Collates, and asks the worker's dataset for its state after each batch: as torchdata's StatefulDataLoader."""

    def __call__(self, samples):
        info = get_worker_info()
        return info.id, copy.deepcopy(info.dataset.state_dict()), [sample["mask_id"] for sample in samples]


class GivingBack:
    """Gives each worker its own state before it begins, as torchdata's StatefulDataLoader does."""

    def __init__(self, states):
        self.states = states

    def __call__(self, worker):
        get_worker_info().dataset.load_state_dict(self.states[worker])


@pytest.mark.slow
def test_a_loader_that_keeps_a_state_a_worker_can_resume_with_them(run):
    order = StreamOrder(buffer_images=3)
    options = {"batch_size": 3, "num_workers": 2, "collate_fn": AskingWorkers()}
    full = list(DataLoader(RisIterableDataset(run.location, TEXT, order=order), **options))
    states = {worker: state for worker, state, _ in full[:4]}
    again = DataLoader(
        RisIterableDataset(run.location, TEXT, order=order), worker_init_fn=GivingBack(states), **options
    )
    assert [masks for _, _, masks in again] == [masks for _, _, masks in full[4:]]


# With four there are more than shards; torch says so where there are more than cores.
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize(
    ("num_workers", "batch_size", "is_dropping"),
    [(0, 5, False), (0, 5, True), (4, 5, False), (2, 7, False), (2, 7, True), (2, 1, True), (2, None, False)],
)
def test_the_length_counts_the_batches_of_each_worker(run, num_workers, batch_size, is_dropping):
    dataset = RisIterableDataset(run.location, TEXT, order=StreamOrder(uneven="drop"))
    # torch refuses to drop what is no batch.
    options = {} if batch_size is None else {"drop_last": is_dropping}
    loader = ResumableLoader(dataset, collate_fn=str, batch_size=batch_size, num_workers=num_workers, **options)
    assert len(loader) == len(list(loader))

"""Snapshots: what of a growing run is read, and that it stays so."""

from __future__ import annotations

import json
import multiprocessing

import pytest
import torch

from pseudoris.interchange.dataset import RisDataset, RisIterableDataset, SampleSpec, Snapshot, StreamOrder
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.manifest import write_manifest
from tests.interchange.dataset.builders import build_run

TEXT = SampleSpec(parts=("text",))


@pytest.fixture
def growing(tmp_path):
    return build_run(tmp_path, is_committed=False)


def shards(snapshot):
    return snapshot.table["shard"].to_pylist()


def test_the_latest_manifest_is_read_and_what_is_newer_waits(growing, caplog):
    growing.commit(0)
    write_manifest(growing.location)
    growing.commit(1)
    with caplog.at_level("INFO"):
        snapshot = Snapshot.take(growing.location)
    assert (snapshot.manifest, shards(snapshot)) == (1, [0])
    assert "1 newer shards are not read" in caplog.text
    write_manifest(growing.location)
    assert (Snapshot.take(growing.location).manifest, shards(Snapshot.take(growing.location))) == (2, [0, 1])
    assert shards(Snapshot.of_manifest(growing.location, 1)) == [0]


def test_without_a_manifest_the_receipts_are_pinned(growing):
    growing.commit(0, 2)
    snapshot = Snapshot.take(growing.location)
    assert (snapshot.manifest, shards(snapshot)) == (None, [0, 2])
    growing.commit(1)
    state = json.loads(json.dumps(snapshot.state()))
    again = Snapshot.from_state(growing.location, state)
    assert shards(again) == [0, 2]
    assert again.digest == snapshot.digest
    assert shards(Snapshot.of_receipts(growing.location)) == [0, 1, 2]


def test_a_retry_that_ended_before_its_manifest_is_read_from_its_receipts(growing):
    growing.commit()
    write_manifest(growing.location)
    dataset = RisIterableDataset(growing.location, TEXT)
    due = {sample["mask_id"] for sample in dataset}
    growing.commit(1, generation=1)
    report = run_gc(growing.location)
    assert len(report.superseded) == 4
    with pytest.raises(ConfigError, match=r"take a new snapshot of the run \(refresh\(\) of the dataset"):
        list(dataset)
    # The remedy that the message names.
    snapshot = dataset.refresh()
    assert {sample["mask_id"] for sample in dataset} == due
    assert (snapshot.manifest, snapshot.table["generation"].to_pylist()) == (1, [0, 1, 0])
    assert snapshot.digest == Snapshot.of_receipts(growing.location).digest
    assert len(list(RisIterableDataset(growing.location, TEXT))) == len(due)


def test_a_snapshot_with_retried_shards_is_pinned_as_it_was(growing):
    growing.commit(0, 1)
    write_manifest(growing.location)
    growing.commit(1, generation=1)
    snapshot = Snapshot.take(growing.location)
    state = json.loads(json.dumps(snapshot.state()))
    assert (state["manifest"], state["commits"]) == (1, [[1, 1, 1]])
    growing.commit(1, generation=2)
    growing.commit(2)
    write_manifest(growing.location)
    assert Snapshot.of_receipts(growing.location).table["generation"].to_pylist() == [0, 2, 0]
    again = Snapshot.from_state(growing.location, state)
    assert (again.digest, again.table["generation"].to_pylist()) == (snapshot.digest, [0, 1])
    assert again.state() == state


def test_the_state_of_another_run_is_refused(growing, tmp_path):
    growing.commit()
    other = build_run(tmp_path / "other", num_shards=3, per_shard=2)
    with pytest.raises(ConfigError, match="its snapshot has another digest"):
        Snapshot.from_state(other.location, Snapshot.take(growing.location).state())


def test_a_run_without_a_commit_is_nothing_to_train_on(growing):
    with pytest.raises(ConfigError, match=r"The run at .* has no committed shard yet"):
        Snapshot.take(growing.location)


# What the ranks of a process group agree on, while a run grows.


def in_two_processes(folder, of_rank):
    """Run `of_rank(rank)` in two processes of a gloo group; return what each returned."""

    def main(rank):
        init = f"file://{folder}/group"
        torch.distributed.init_process_group("gloo", init_method=init, rank=rank, world_size=2)
        (folder / f"{rank}.json").write_text(json.dumps(of_rank(rank)))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

    processes = [multiprocessing.get_context("fork").Process(target=main, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("first", [0, 1])
def test_ranks_of_a_growing_run_read_one_snapshot(tmp_path, first):
    run = build_run(tmp_path, is_committed=False, num_shards=5)
    run.commit(0, 1)

    def of_rank(rank):
        epochs = []
        if rank != first:
            torch.distributed.barrier()
        dataset = RisIterableDataset(run.location, TEXT, order=StreamOrder(uneven="drop"))
        if rank == first:
            run.commit(2, 3)
            torch.distributed.barrier()
        epochs.append([sample["mask_id"] for sample in dataset])
        torch.distributed.barrier()
        if rank != first:
            torch.distributed.barrier()
        dataset.refresh()
        if rank == first:
            run.commit(4)
            torch.distributed.barrier()
        epochs.append([sample["mask_id"] for sample in dataset])
        return epochs

    ranks = in_two_processes(tmp_path, of_rank)
    assert [[len(masks) for masks in epochs] for epochs in ranks] == [[8, 16], [8, 16]]
    for epoch, num_masks in enumerate((16, 32)):
        assert len({mask for epochs in ranks for mask in epochs[epoch]}) == num_masks


def test_a_dataset_that_one_rank_makes_alone_waits_for_nobody(tmp_path):
    run = build_run(tmp_path)

    def of_rank(rank):
        return len(RisDataset(run.location, TEXT)) if rank == 1 else None

    assert in_two_processes(tmp_path, of_rank) == [None, 24]

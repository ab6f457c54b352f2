"""What the ranks of a process group agree on: a snapshot of a run that grows while they start one after another."""

from __future__ import annotations

import json
import multiprocessing

import pytest
import torch

from pseudoris.interchange.dataset import RisDataset, RisIterableDataset, SampleSpec, StreamOrder
from tests.interchange.dataset.builders import build_run

TEXT = SampleSpec(parts=("text",))


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

"""Encoded images of a shard, read by the thread that uses them and by the one that reads ahead."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from schemas.plan import PlanEntry
from tests.training.dataset.builders import build_run
from training.dataset import images
from training.dataset.images import ImageBytes


def give_way(frame, event, argument):
    """Let other threads come before every line of `_plan`: the interpreter promises none that they may not."""
    if frame.f_code.co_name != "_plan":
        return None
    time.sleep(1e-4)
    return give_way


@pytest.mark.parametrize("is_random_access", [False, True])
def test_two_threads_that_read_two_shards_do_not_take_each_others_plans(tmp_path, monkeypatch, is_random_access):
    run = build_run(tmp_path, is_committed=False)

    def plan(location, header, shard):
        return [PlanEntry(shard, 0, "0" * 16, f"{shard}.png", 1, None, None)]

    monkeypatch.setattr(images, "read_shard_plan", plan)
    encoded = ImageBytes(run.location, run.header, is_random_access=is_random_access)

    def look(shards):
        sys.settrace(give_way)
        try:
            return [[*encoded._plan(shard)] for shard in shards]
        finally:
            sys.settrace(None)

    shards = range(0, 200, 2), range(1, 200, 2)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(look, shards)) == [[[f"{shard}.png"] for shard in each] for each in shards]

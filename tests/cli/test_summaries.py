"""Events become a bar and notices; nothing in them is read as markup."""

from __future__ import annotations

import io

from rich.console import Console

from pseudoris.cli.progress import run_progress
from pseudoris.schemas.run_records import PartRecord, Receipt, ShardCounts
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.runs.pending_work import Committed, Notice, Planned


def terminal():
    return Console(file=io.StringIO(), width=200, force_terminal=True, markup=False, highlight=False, color_system=None)


def committed(shard, images, *, quarantined=0):
    part = PartRecord(name="p", rows=0, size_bytes=1, sha256="0" * 64)
    annotated = images - quarantined
    ones = dict.fromkeys(("masks", "expressions", "samples", "kept"), 1)
    counts = ShardCounts(images=images, annotated=annotated, empty=0, quarantined=quarantined, kept_lone=0, **ones)
    return Committed(Receipt(shard=shard, generation=0, parts=dict.fromkeys(SCHEMAS, part), counts=counts))


def test_the_bar_starts_at_what_is_committed_and_counts_quarantine():
    console = terminal()
    with run_progress(console) as on_event:
        on_event(Planned(num_images=10, num_images_done=4, num_shards=4, num_shards_done=1, actors={"fused": 2}))
        on_event(Notice("a path with [brackets]"))
        on_event(committed(1, 3, quarantined=2))
    printed = console.file.getvalue()
    assert "1 of 4 shards are already committed" in printed
    assert "a path with [brackets]" in printed
    assert "2 quarantined" in printed
    assert "7/10" in printed


def test_without_a_terminal_plain_lines_say_each_tenth_of_the_images():
    console = Console(file=io.StringIO(), width=80)
    with run_progress(console) as on_event:
        on_event(Planned(num_images=100, num_images_done=5, num_shards=20, num_shards_done=1, actors={"fused": 2}))
        for shard, images in enumerate([4, 1, 5, 20]):
            on_event(committed(shard, images, quarantined=1 if shard == 2 else 0))
    assert console.file.getvalue().splitlines() == [
        "starting",
        "continuing: 1 of 20 shards are already committed",
        "annotating (2 actors): 5 of 100 images",
        "annotating: 10 of 100 images",
        "annotating, 1 quarantined: 35 of 100 images",
    ]


def test_rate_and_time_left_count_from_the_first_shard_though_two_land_together():
    console, now = terminal(), [1_000.0]
    with run_progress(console, clock=lambda: now[0]) as on_event:
        # Listing and planning take no part in the rate.
        now[0] += 500
        on_event(Planned(num_images=100, num_images_done=40, num_shards=10, num_shards_done=4, actors={"fused": 2}))
        now[0] += 20
        on_event(committed(4, 10))
        now[0] += 0.1
        on_event(committed(5, 10))
    # Of its last frame: 20 images in 20.1 seconds, and 40 to come.
    last = console.file.getvalue().rpartition("60/100")[2]
    assert "1.0 images/s" in last
    assert "0:00:20" in last
    assert "0:00:40" in last

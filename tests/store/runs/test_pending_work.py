"""What is left to do of a run; when shards that are set aside stop it; and whom the deaths of attempts blame."""

from __future__ import annotations

import pytest

from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.shard import ShardFault
from pseudoris.store.runs.attempts import (
    attempts_of,
    begin_attempt,
    clear_attempts,
    end_attempt,
    parse_attempts,
    read_attempts,
)
from pseudoris.store.runs.pending_work import MAX_IN_A_ROW, PendingWork, SetAside, ignore, quarantined_shards
from pseudoris.store.runs.receipts import latest_receipts
from tests.store.builders import commit, make_entries, start_run


def test_shards_with_an_image_in_quarantine_are_retried_from_the_generation_that_stands(disk):
    header = start_run(disk, make_entries(3, per_shard=8))
    commit(disk, header, 0)
    commit(disk, header, 2, generation=1)
    expected = PendingWork([0, 2], {0: 0, 2: 1}, num_images=4)
    assert quarantined_shards(latest_receipts(disk), None) == expected
    assert quarantined_shards(latest_receipts(disk), frozenset({"corrupt", "missing"})) == expected
    assert quarantined_shards(latest_receipts(disk), frozenset({"missing"})) == PendingWork([])


def test_excluded_images_are_not_retried(disk):
    (receipt,) = commit(disk, start_run(disk, make_entries(1)), 0)
    counts = receipt.counts.model_copy(update={"reasons": {"excluded": 1}})
    assert quarantined_shards([receipt.model_copy(update={"counts": counts})], None) == PendingWork([])


def fault(shard: int, message: str = "", *, is_config: bool = False, is_proven: bool = False) -> ShardFault:
    return ShardFault(shard, message or f"fault of shard {shard}", is_config, is_proven)


def test_the_third_failure_without_a_commit_stops_the_run_also_at_its_start():
    aside = SetAside(ignore)
    aside.add(fault(4))
    aside.add(fault(5))
    with pytest.raises(TransientError, match=r"3 shards \(4, 5, 6\) failed") as stopped:
        aside.add(fault(6))
    assert MAX_IN_A_ROW == 3
    assert str(stopped.value) == (
        "3 shards (4, 5, 6) failed, and none was committed between them\n"
        "  shard 4: fault of shard 4\n  shard 5: fault of shard 5\n  shard 6: fault of shard 6"
    )


def test_a_commit_between_failures_keeps_the_run_going():
    aside = SetAside(ignore)
    for shard in range(20):
        aside.add(fault(shard))
        if shard % 2:
            aside.end_row()
    with pytest.raises(TransientError, match=r"^not committed: 20 shards \(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …\)"):
        aside.check()


def test_failures_that_were_proven_to_be_the_shards_own_are_not_counted():
    events = []
    aside = SetAside(events.append)
    for shard in range(1_000):
        aside.add(fault(shard, is_proven=True))
    aside.end_row()
    with pytest.raises(TransientError, match=r"^not committed: .*run the same command again") as ended:
        aside.check()
    # Neither the notices nor the end name all of them.
    assert len(events) == 10
    assert len(str(ended.value).splitlines()) == 11


@pytest.mark.parametrize(("is_config", "error"), [(True, ConfigError), (False, TransientError)])
def test_the_end_asks_for_a_correction_or_for_another_try(is_config, error):
    aside = SetAside(ignore)
    aside.end_row()
    aside.add(fault(7, is_config=is_config))
    with pytest.raises(error, match=r"^not committed: shard 7\. All other shards are\. "):
        aside.check()


HERE, THERE = "a" * 56, "b" * 56


def begin(location, shard=7, generation=0, *, pool="fused", session="one", node=HERE):
    return begin_attempt(location, shard, generation, pool=pool, session_nonce=session, node=node)


def deaths(location, shard=7, *, pool="fused", session="one", living=(HERE, THERE)):
    return read_attempts(location, shard, 0).num_deaths(pool=pool, session_nonce=session, living_nodes=living)


def test_an_attempt_that_has_ended_is_no_death(location):
    attempt, _ = begin(location)
    assert deaths(location) == 1
    end_attempt(location, attempt)
    assert deaths(location) == 0
    begin(location, pool="propose", session="two")
    begin(location, pool="propose")
    # By pool, over all sessions of the run.
    assert read_attempts(location, 7, 0).begun_by_pool() == {"fused": 1, "propose": 2}


def test_deaths_with_their_node_with_their_driver_or_in_another_pool_blame_nobody(location):
    begin(location)
    assert deaths(location, living=(THERE,)) == 0
    assert deaths(location, session="two") == 0
    assert deaths(location, pool="caption") == 0
    assert deaths(location, shard=8) == 0


def test_strange_files_and_attempts_of_another_generation_or_shard_are_none_of_its_own(location):
    own, _ = begin(location, 7, 1)
    for shard, generation in [(7, 0), (7, 10), (70, 1), (100_000_007, 1)]:
        begin(location, shard, generation)
    for name in ("notes.txt", "shard-7.begun"):
        location.replace(f"_attempts/{name}", b"mine")
    assert read_attempts(location, 7, 1).begun == {own}
    assert not {"_attempts/notes.txt", "_attempts/shard-7.begun"} & set(attempts_of(location, [(7, 9), (70, 9)]))


def test_a_commit_clears_its_own_generation_alone(location):
    begin(location), begin(location, generation=1), begin(location, shard=8)
    clear_attempts(location, read_attempts(location, 7, 0))
    left, _ = parse_attempts(location)
    assert {(attempt.shard, attempt.generation) for attempt in left} == {(7, 1), (8, 0)}


def test_what_a_receipt_has_made_void_is_named_and_what_is_in_flight_is_not(location):
    end_attempt(location, begin(location)[0])
    begin(location, shard=8)
    begin(location, generation=1)
    assert len(attempts_of(location, [(7, 0)])) == 2
    assert len(attempts_of(location, [(7, 1)])) == 3
    assert attempts_of(location, []) == []

"""Attempts are counted where no death reaches them, and blame only whom they should."""

from __future__ import annotations

import pytest

from pseudoris.store.location import RunLocation
from pseudoris.store.runs.attempts import (
    attempts_of,
    begin_attempt,
    clear_attempts,
    end_attempt,
    parse_attempts,
    read_attempts,
)

HERE, THERE = "a" * 56, "b" * 56


@pytest.fixture
def location(tmp_path) -> RunLocation:
    return RunLocation.open(str(tmp_path))


def begin(location, shard=7, generation=0, *, pool="fused", session="one", node=HERE):
    return begin_attempt(location, shard, generation, pool=pool, session_nonce=session, node=node)


def deaths(location, shard=7, *, pool="fused", session="one", living=(HERE, THERE)):
    return read_attempts(location, shard, 0).num_deaths(pool=pool, session_nonce=session, living_nodes=living)


def test_an_attempt_that_has_ended_is_no_death(location):
    attempt, _ = begin(location)
    assert deaths(location) == 1
    end_attempt(location, attempt)
    assert deaths(location) == 0
    assert read_attempts(location, 7, 0).begun_by_pool() == {"fused": 1}


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


def test_attempts_are_counted_by_pool_over_all_sessions_of_the_run(location):
    for pool, session in [("propose", "one"), ("propose", "two"), ("caption", "two")]:
        begin(location, pool=pool, session=session)
    assert read_attempts(location, 7, 0).begun_by_pool() == {"caption": 1, "propose": 2}


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

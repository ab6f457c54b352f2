from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pseudoris.store.location import RunLocation
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.viewer.shard_choice import CommittedShards, choose_images, choose_shards
from tests.store.builders import commit, make_entries, start_run


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 40))
def test_a_sample_is_as_large_as_asked_for_and_spread_evenly(counts, sample):
    chosen = choose_images(counts, sample)
    starts = [sum(counts[:shard]) for shard in range(len(counts))]
    positions = [starts[shard] + position for shard, some in chosen.items() for position in some]

    assert all(0 <= position < counts[shard] for shard, some in chosen.items() for position in some)
    assert len(positions) == min(sample, sum(counts))
    assert positions == sorted(set(positions))
    gaps = {later - earlier for earlier, later in pairwise(positions)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 300))
def test_chosen_shards_stay_within_the_bound_and_span_the_run(rows, max_rows):
    chosen = choose_shards(rows, max_rows)

    assert chosen == sorted(set(chosen))
    assert sum(rows[shard] for shard in chosen) <= max_rows or len(chosen) == 1
    if sum(rows) <= max_rows:
        assert chosen == list(range(len(rows)))
    gaps = {later - earlier for earlier, later in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_numbers_of_committed_shards_lead_back_to_their_receipts(tmp_path):
    location = RunLocation.open(str(tmp_path / "run"))
    header = start_run(location, make_entries(num_shards=3, per_shard=4))
    commit(location, header, 0)
    write_manifest(location)
    commit(location, header, 2)
    shards = CommittedShards.of(location)

    assert (len(shards), list(shards.numbers)) == (2, [0, 2])
    assert (list(shards.shown), list(shards.quarantined), list(shards.expressions)) == ([3, 3], [1, 1], [6, 6])
    assert [receipt.shard for receipt in shards.receipts(location, [1])] == [2]

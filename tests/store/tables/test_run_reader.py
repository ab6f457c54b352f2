"""A run as pyarrow datasets: exactly the committed parts, whatever else lies in its folders, on a disk and on S3."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.receipts import latest_receipts, part_path
from pseudoris.store.tables.open_run import COLUMNS
from pseudoris.store.tables.run_reader import Run, draw_rows
from tests.builders.scored_runs import begin, commit_scored, scored_run
from tests.builders.tables import read_table


def leave_garbage(location: RunLocation) -> None:
    """What a killed writer leaves: a part that reads well, and that no receipt names."""
    receipt = next(iter(latest_receipts(location)))
    part = receipt.parts[EXPRESSIONS]
    data = location.read_bytes(part_path(EXPRESSIONS, part))
    location.put_part(f"{EXPRESSIONS}/{part.name.replace('.g0-', '.g7-')}", data)


def test_tables_are_exactly_what_the_receipts_name(location):
    header = begin(location, num_shards=3)
    for shard in (0, 2):
        commit_scored(location, header, shard)
    commit_scored(location, header, 0, generation=1)
    leave_garbage(location)
    run = Run(location)
    for name in ("images", "masks", "expressions", "failures"):
        assert getattr(run, name)().to_table().equals(read_table(location, name)), name
    assert (run.is_complete, run.header.num_shards, run.counts.shards) == (False, 3, 2)
    assert run.counts.expressions == run.expressions().count_rows()
    assert run.counts.images == run.images().count_rows()


def test_a_run_stays_as_it_was_when_it_was_opened(location):
    header = begin(location, num_shards=2)
    commit_scored(location, header, 0)
    run = Run(location)
    commit_scored(location, header, 1)
    assert run.counts.shards == 1
    shown = run.sample(1_000, columns=["image_id"])["image_id"].to_pylist()
    assert set(shown) <= set(run.images().to_table(columns=["image_id"])["image_id"].to_pylist())
    assert Run(location).is_complete


def test_filters_columns_and_pickles_work_as_of_any_dataset(location):
    scored_run(location)
    dataset = pickle.loads(pickle.dumps(Run(location).expressions()))
    kept = dataset.to_table(columns=["text"], filter=pc.field("kept"))
    assert kept.column_names == ["text"]
    assert kept.num_rows == Run(location).counts.kept > 0


def test_a_pipe_in_the_place_of_a_part_is_refused_by_name(tmp_path):
    scored_run(location := RunLocation.open(str(tmp_path)))
    part = next((tmp_path / IMAGES).iterdir())
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(ConfigError, match=rf"{part.name} is a pipe"):
        Run(location).images()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    location = RunLocation.open(str(tmp_path_factory.mktemp("sampled") / "run"))
    scored_run(location, num_shards=8, has_humans=True)
    return location


def identity_of(row) -> tuple:
    return row["image_id"], *row["target_mask_ids"], row["text"]


@pytest.mark.parametrize("kept_only", [True, False])
def test_rows_are_those_of_the_table_in_its_order_and_none_twice(run, kept_only):
    whole = read_table(run, EXPRESSIONS)
    whole = whole.filter(whole["kept"]) if kept_only else whole
    order = {identity_of(row): number for number, row in enumerate(whole.to_pylist())}
    rows = Run(run).sample(25, columns=whole.schema.names, kept_only=kept_only).to_pylist()
    places = [order[identity_of(row)] for row in rows]
    assert places == sorted(set(places))
    assert len(places) == 25
    assert all(whole.slice(place, 1).to_pylist() == [row] for place, row in zip(places, rows, strict=True))


def test_columns_of_image_and_mask_are_those_of_the_rows_own(run):
    columns = ["text", "key", "width", "mask_id", "segmentation", "area_px", "target_mask_ids", "image_id"]
    table = Run(run).sample(10**9, columns=columns, kept_only=False)
    assert table.schema.names == columns
    keys = {row["image_id"]: row["key"] for row in read_table(run, IMAGES).to_pylist()}
    masks = {row["mask_id"]: row for row in read_table(run, MASKS).to_pylist()}
    kinds = Counter()
    for row in table.to_pylist():
        kinds[len(row["target_mask_ids"])] += 1
        assert row["key"] == keys[row["image_id"]]
        if len(row["target_mask_ids"]) == 1:
            mask = masks[row["target_mask_ids"][0]]
            assert {name: row[name] for name in ("mask_id", "segmentation", "area_px")} == {
                name: mask[name] for name in ("mask_id", "segmentation", "area_px")
            }
        else:
            assert row["mask_id"] is row["segmentation"] is None
    assert set(kinds) == {1, 2}


@pytest.mark.parametrize("columns", [["text", "bytes"], ["nonsense"], []])
def test_a_column_that_is_none_is_refused_with_those_that_are(run, columns):
    with pytest.raises(ConfigError, match=f"there is no column .* give some of {', '.join(COLUMNS[:3])}"):
        Run(run).sample(2, columns=columns)


@pytest.mark.parametrize("number", [-1, "3", float("nan")])
def test_a_number_of_rows_that_is_none_is_refused(run, number):
    with pytest.raises(ConfigError, match=f"num_rows {number!r} is not possible: give a whole number from 0"):
        Run(run).sample(number)


@given(counts=st.lists(st.integers(0, 30), max_size=12), size=st.integers(1, 80), seed=st.integers(0, 5))
def test_every_stretch_gives_one_row(counts, size, seed):
    drawn = draw_rows(counts, size, seed)
    starts = [sum(counts[:shard]) for shard in range(len(counts))]
    assert all(0 <= row < counts[shard] for shard, rows in drawn.items() for row in rows)
    places = [starts[shard] + row for shard, rows in drawn.items() for row in rows]
    total = sum(counts)
    num_rows = min(size, total)
    assert len(places) == num_rows
    for number, place in enumerate(places):
        assert number * total // num_rows <= place < (number + 1) * total // num_rows


def test_a_filtered_dataset_is_not_sent_to_another_process_without_its_filter(run):
    filtered = Run(run).masks().filter(ds.field("area_px") > 0)
    with pytest.raises(ValueError, match="filtered"):
        pickle.dumps(filtered)


@pytest.mark.slow
def test_a_process_that_reads_a_part_of_a_dataset_ends(tmp_path):
    # Python files that Arrow's threads still read would hang it, or abort.
    scored_run(RunLocation.open(str(tmp_path)), num_shards=20)
    read = f"import pseudoris; tables = pseudoris.open_run({str(tmp_path)!r}).masks(); b = tables.to_batches(); next(b)"
    assert subprocess.run([sys.executable, "-c", read], check=False, timeout=100).returncode == 0

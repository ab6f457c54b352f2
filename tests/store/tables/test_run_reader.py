"""A run as pyarrow datasets: exactly the committed parts, whatever else lies in its folders, on a disk and on S3."""

from __future__ import annotations

import os
import pickle

import pyarrow.compute as pc
import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.receipts import latest_receipts, part_path
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.store.tables.run_reader import Run
from tests.builders.scored_runs import begin, commit_scored, scored_run


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

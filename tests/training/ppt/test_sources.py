"""The data sets of the curriculum, out of runs."""

from __future__ import annotations

import json

import torch

from tests.training.dataset.builders import build_run
from tests.training.ppt.builders import RECIPE, small_config
from training.ppt.label_drawing import LabelFrame
from training.ppt.sources import SourceRuns, open_sources


def test_a_pair_has_no_more_labels_than_queries_and_its_referent_is_one_of_them(tmp_path) -> None:
    said = [{**RECIPE, "rival_mask_id": None, "kept": mask == 4} for mask in range(5)]
    rows = [(mask, "the last of them", fields) for mask, fields in enumerate(said)]
    run = build_run(tmp_path / "run", num_shards=1, per_shard=1, rows=lambda number: rows).location.root
    config = small_config(tmp_path, ["generator.num_queries=3", "data.max_candidates=12"])

    runs = SourceRuns(d_ref=(run,))
    (pairs,) = open_sources(runs, config, LabelFrame(32, 16), runs.snapshots())["d_ref"]

    assert pairs[0].labels.confidences.tolist() == [1.0, 0.0, 0.0]


def test_a_run_that_grows_is_read_as_it_was_when_its_snapshot_was_taken(tmp_path) -> None:
    rows = [(0, "a star", {**RECIPE, "rival_mask_id": None})]
    options = {"num_shards": 2, "per_shard": 2, "rows": lambda number: rows}
    built = build_run(tmp_path / "run", is_committed=False, **options)
    built.commit(0)
    runs = SourceRuns(d_sem=(built.location.root,), h=(built.location.root,))
    taken = runs.snapshots()

    built.commit(1)

    found = open_sources(runs, small_config(tmp_path), LabelFrame(32, 16), taken)
    assert [len(part) for source in ("d_sem", "h_sem") for part in found[source]] == [2, 2]
    assert runs.digests(taken) != runs.digests(runs.snapshots())
    assert runs.digests(taken)["d_sem"] == runs.digests(taken)["h"]


def test_images_that_were_moved_are_read_where_they_lie_now(tmp_path) -> None:
    rows = [(0, "a star", {**RECIPE, "rival_mask_id": None})]
    built = build_run(tmp_path / "run", num_shards=1, per_shard=2, is_embedding=False, rows=lambda number: rows)
    runs, frame = SourceRuns(d_sem=(built.location.root,)), LabelFrame(32, 16)
    (before,) = open_sources(runs, small_config(tmp_path), frame, runs.snapshots())["d_sem"]
    expected = before.image(0)
    moved = built.source.rename(tmp_path / "elsewhere")

    config = small_config(tmp_path, [f"data.moved={json.dumps({str(built.source): str(moved)})}"])
    (after,) = open_sources(runs, config, frame, runs.snapshots())["d_sem"]

    assert torch.equal(after.image(0), expected)
    assert config.decisive() == small_config(tmp_path).decisive()

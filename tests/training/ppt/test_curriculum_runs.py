"""The data sets of the curriculum, out of runs."""

from __future__ import annotations

import json
import re

import pytest
import torch

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.ppt.curriculum import SourceRuns, open_sources
from pseudoris.training.ppt.pairs import LabelFrame
from tests.interchange.dataset.builders import build_run
from tests.training.ppt.builders import RECIPE, small_config


def test_pseudo_masks_that_no_query_can_take_are_left_out_with_a_warning_where_one_may_be_the_referent(
    tmp_path, caplog
) -> None:
    undecided = {**RECIPE, "rival_mask_id": None, "kept": False}
    rows = [(mask, "one of them", undecided) for mask in range(5)]
    rows += [(mask, "the first of them", {**undecided, "kept": mask == 0}) for mask in range(5)]
    options = {"num_shards": 1, "per_shard": 2, "rows": lambda number: rows, "recipe": "pairs"}
    root = build_run(tmp_path / "run", **options).location.root
    runs, config = SourceRuns(h=(root,)), small_config(tmp_path, ["generator.num_queries=3"])

    with caplog.at_level("WARNING", logger="pseudoris.training"):
        found = open_sources(runs, config, LabelFrame(32, 16), runs.snapshots())

    assert [len(pair.labels.confidences) for pair in found["h_ref"][0]] == [3, 3]
    assert [record.getMessage().partition(", which")[0] for record in caplog.records] == [
        f"{root}: 2 texts without a referent have more pseudo-masks than the first 3"
    ]


def test_a_run_that_grows_is_read_as_it_was_when_its_snapshot_was_taken(tmp_path) -> None:
    rows = [(0, "a star", {**RECIPE, "rival_mask_id": None})]
    options = {"num_shards": 2, "per_shard": 2, "rows": lambda number: rows, "recipe": "objects"}
    built = build_run(tmp_path / "run", is_committed=False, **options)
    built.commit(0)
    root = built.location.root
    runs = SourceRuns(d_sem=(root,), annotated=(root,))
    taken = runs.snapshots()
    saved = json.loads(json.dumps({root: taken[root].state()}))

    built.commit(1)

    for snapshots in (taken, runs.snapshots(saved)):
        found = open_sources(runs, small_config(tmp_path), LabelFrame(32, 16), snapshots)
        assert [len(part) for source in ("d_sem", "h_sem") for part in found[source]] == [2, 2]
    assert len(open_sources(runs, small_config(tmp_path), LabelFrame(32, 16), runs.snapshots())["d_sem"][0]) == 4


@pytest.mark.parametrize(
    ("name", "recipe", "said"),
    [
        ("h", None, "`pseudoris annotate`, but a run of `pseudoris ppt pairs` is needed"),
        ("d_sem", "compose", "`pseudoris ppt compose`, but a run of `pseudoris ppt objects` is needed"),
        ("d_ref", "pairs", "`pseudoris ppt pairs`, but a run of `pseudoris ppt compose` is needed"),
    ],
)
def test_a_run_of_another_command_is_refused_and_any_is_annotated(tmp_path, name, recipe, said) -> None:
    root = build_run(tmp_path / "run", num_shards=1, per_shard=1, recipe=recipe).location.root
    with pytest.raises(ConfigError, match=re.escape(f"{root} was written by {said}. Give such a run")):
        SourceRuns(**{name: (root,)}).snapshots()
    assert list(SourceRuns(annotated=(root,)).snapshots()) == [root]


def test_images_that_were_moved_are_read_where_they_lie_now(tmp_path) -> None:
    rows = [(0, "a star", {**RECIPE, "rival_mask_id": None})]
    options = {"is_embedding": False, "rows": lambda number: rows, "recipe": "objects"}
    built = build_run(tmp_path / "run", num_shards=1, per_shard=2, **options)
    runs, frame = SourceRuns(d_sem=(built.location.root,)), LabelFrame(32, 16)
    (before,) = open_sources(runs, small_config(tmp_path), frame, runs.snapshots())["d_sem"]
    expected = before.image(0)
    moved = built.source.rename(tmp_path / "elsewhere")

    config = small_config(tmp_path, [f"data.moved={json.dumps({str(built.source): str(moved)})}"])
    (after,) = open_sources(runs, config, frame, runs.snapshots())["d_sem"]

    assert torch.equal(after.image(0), expected)
    assert config.decisive() == small_config(tmp_path).decisive()

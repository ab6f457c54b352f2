"""The data sets of the curriculum, out of runs."""

from __future__ import annotations

from tests.training.dataset.builders import build_run
from tests.training.ppt.builders import RECIPE, small_config
from training.ppt.label_drawing import LabelFrame
from training.ppt.sources import SourceRuns, open_sources


def test_a_pair_has_no_more_labels_than_queries_and_its_referent_is_one_of_them(tmp_path) -> None:
    said = [{**RECIPE, "rival_mask_id": None, "kept": mask == 4} for mask in range(5)]
    rows = [(mask, "the last of them", fields) for mask, fields in enumerate(said)]
    run = build_run(tmp_path / "run", num_shards=1, per_shard=1, rows=lambda number: rows).location.root
    config = small_config(tmp_path, ["generator.num_queries=3", "data.max_candidates=12"])

    (pairs,) = open_sources(SourceRuns(d_ref=(run,)), config, LabelFrame(32, 16))["d_ref"]

    assert pairs[0].labels.confidences.tolist() == [1.0, 0.0, 0.0]

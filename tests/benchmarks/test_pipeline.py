"""The pipeline's benchmark: both sides write the same bytes, else there is no figure."""

import json

import pytest

from benchmarks import pipeline
from benchmarks.pipeline import run_bare
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation


def quick_config(**captions):
    settings = {"max_length": 6, "has_masked_crop": "false", "context_scales": "[1.0]", **captions}
    assignments = ["shards.max_images=2", *(f"captions.{name}={value}" for name, value in settings.items())]
    return load_config("tiny", assignments=assignments)


@pytest.mark.long
def test_a_bare_run_is_a_whole_one_and_another_configs_is_told_from_it(tmp_path):
    source = pipeline.write_scenes(tmp_path / "images", 3)
    for out, max_length in (("a", 6), ("b", 5)):
        started, commits = run_bare(source, tmp_path / out, quick_config(max_length=max_length))
        assert [started, *commits] == sorted([started, *commits])
        assert len(commits) == 2
        assert verify_run(RunLocation.open(str(tmp_path / out))).is_clean
    pipeline.check_equal(tmp_path / "a", tmp_path / "a")
    with pytest.raises(ValueError, match="shard 0 has other bytes on Ray than bare"):
        pipeline.check_equal(tmp_path / "a", tmp_path / "b")


def test_work_is_timed_from_the_first_commit_and_start_up_apart():
    timed = pipeline.Timed.of(10.0, [14.0, 15.0, 18.0])
    assert (timed.start_s, timed.work_s) == (4.0, 4.0)
    with pytest.raises(ValueError, match="1 shards: it takes two"):
        pipeline.Timed.of(10.0, [14.0])


@pytest.mark.ray
@pytest.mark.long
def test_both_sides_write_the_same_bytes_and_the_note_says_what_ray_adds(tmp_path, ray_session):
    path = tmp_path / "rows.json"
    quick = ["captions.max_length=6", "captions.has_masked_crop=false", "captions.context_scales=[1.0]"]
    settings = [argument for one in quick for argument in ("--set", one)]
    pipeline.main(["--images", "4", "--shard-images", "1", "--json", str(path), *settings])
    (row,) = json.loads(path.read_text(encoding="utf-8"))
    assert row["ratio"] == row["baseline_s"] / row["ours_s"] > 0
    assert "of the bare stages' time, same bytes" in row["note"]

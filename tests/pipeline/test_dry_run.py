"""The dry run."""

from __future__ import annotations

import pytest

from pseudoris.pipeline.annotation import dry_run
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from tests.builders.plain_runs import work_off
from tests.builders.runs import stub_config, write_source

pytestmark = pytest.mark.ray


def test_a_dry_run_tells_the_plan_and_writes_nothing(ray_session, tmp_path):
    source = write_source(tmp_path / "in", num_images=7)
    (tmp_path / "in" / "photo.heic").write_bytes(b"")
    plan = dry_run(
        str(source), str(tmp_path / "out"), stub_config("masks.weights.uri=here", "placement.fused.max_actors=2")
    )
    assert (plan.num_images, plan.num_shards, plan.num_shards_done) == (10, 3, 0)
    assert plan.actors == {"fused": 2}
    assert plan.weights["propose"] == ("here", sha256_hex(b"here"))
    assert plan.input_bytes == sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert "assuming 5 masks per image" in plan.output_basis
    assert plan.left_out[0] == "not listed: 1 .heic"
    assert not (tmp_path / "out").exists()


def test_embedded_images_count_in_the_estimate(ray_session, tmp_path):
    source = write_source(tmp_path / "in", num_images=2)
    plans = [
        dry_run(str(source), str(tmp_path / "out"), stub_config(f"shards.embed_images={embed}"), options=RunOptions(2))
        for embed in ("false", "true")
    ]
    assert plans[1].num_images == 2
    assert plans[1].output_bytes - plans[0].output_bytes == plans[1].input_bytes > 0


def test_a_dry_run_of_a_run_tells_its_plan_and_estimates_from_what_is_committed(ray_session, tmp_path):
    source, out = write_source(tmp_path / "in", num_images=2), tmp_path / "out"
    work_off(source, out, stub_config())
    write_source(source, num_images=9)
    plan = dry_run(str(source), str(out), stub_config())
    assert (plan.num_images, plan.num_shards, plan.num_shards_done) == (5, 2, 2)
    assert "the 5 images committed so far" in plan.output_basis
    with pytest.raises(ConfigError, match=r"compute\.seed"):
        dry_run(str(source), str(out), stub_config("compute.seed=3"))

"""The dry run."""

from __future__ import annotations

import pytest

from pseudoris.pipeline.annotation import dry_run
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.files.key_order import path_key
from pseudoris.store.sources import SourceItem, open_source
from pseudoris.store.sources.source import Source
from tests.builders.images import png
from tests.builders.plain_runs import work_off
from tests.builders.runs import stub_config, write_source
from tests.builders.sources import parquet_bytes, tar_bytes

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


@pytest.mark.parametrize("is_extension", [False, True])
def test_tars_and_tables_are_looked_into_by_tasks(ray_session, tmp_path, monkeypatch, is_extension):
    source, out = write_source(tmp_path / "in", num_images=2), tmp_path / "out"
    if is_extension:
        work_off(source, out, stub_config())
    (source / "more.tar").write_bytes(tar_bytes([(f"{n}.png", png(seed=n)) for n in range(5)]))
    (source / "more.parquet").write_bytes(parquet_bytes({"bytes": [png(seed=n) for n in range(4)]}))
    expected = len(list(open_source(str(source), stub_config().source).list()))
    monkeypatch.setattr(Source, "items", only_images)
    plan = dry_run(str(source), str(out), stub_config(), options=RunOptions(None, is_extension=is_extension))
    assert plan.num_images == expected == 14
    if is_extension:
        assert plan.extension.num_new == 9


def only_images(source, file, format_):
    assert format_ == "files", "a tar was listed by the driver"
    yield SourceItem(path_key(file.path), file.size_bytes, etag=file.etag, mtime_ns=file.mtime_ns)


def test_an_empty_folder_is_refused_before_ray_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("pseudoris.pipeline.annotation.connected", lambda *_: pytest.fail("Ray was started"))
    with pytest.raises(ConfigError, match="no image"):
        dry_run(str(tmp_path), str(tmp_path / "out"), stub_config())

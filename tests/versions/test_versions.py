"""Runs of every version since 0.5.0 are opened, verified, exported, refiltered and resumed; its paths are there."""

from __future__ import annotations

import json
import pkgutil
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pseudoris import RisDataset, SampleSpec, open_run
from pseudoris.files.location import RunLocation
from pseudoris.schemas.tables import IMAGES_SCHEMA, SCHEMAS
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.tables.parts import read_part
from pseudoris.store.tables.shard_tables import bytes_of_version_5, table_bytes
from tests.builders.command import pseudoris_here
from tests.builders.seals import forge_header
from tests.versions.__main__ import SOURCE, annotation, put_images

VERSIONS = sorted(path.parent for path in Path(__file__).parent.glob("*/config.yaml"))


@pytest.fixture(params=VERSIONS, ids=lambda folder: folder.name)
def kept(request, tmp_path, s3_server, monkeypatch):
    folder = shutil.copytree(request.param, tmp_path / request.param.name)
    put_images(folder / "images", s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    return folder


def rows(run: Path, table: str) -> list[dict[str, object]]:
    return ds.dataset(run / table).to_table().to_pylist()


def parts(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.glob("*/*.parquet")}


def forge(run: Path, edit: Callable[[dict], object]) -> None:
    """Change the header of a finished run."""
    forge_header(RunLocation.open(str(run)), edit)
    write_manifest(RunLocation.open(str(run)))


def says(*words: str, at: Path, code: int = 0) -> str:
    ended = pseudoris_here(*words, cwd=at, code=code)
    return ended.stdout + ended.stderr


def test_there_is_a_run_of_each_release():
    assert [folder.name for folder in VERSIONS] == ["0.5.0", "0.6.0", "0.7.0"]


def test_it_is_whole(kept):
    says("verify", "finished", at=kept)


def test_it_is_whole_with_what_no_header_may_hold_now_and_shows_none_of_it(kept):
    url, token = "https://host/set.tar?q-signature=hunter2", "github_pat_hunter2hunter2hunter2"

    def plant(tree: dict) -> None:
        tree["source"] = url
        tree["config"]["masks"]["weights"]["uri"] = url
        for method in (tree["config"], tree["identity"]["method"]):
            method["captions"]["options"]["place"] = token

    forge(kept / "finished", plant)
    for command in ("verify", "status", "stats", "sample", "parts"):
        assert "hunter2" not in says(command, "finished", at=kept)
    assert "https://host/set.tar?…" in says("status", "finished", at=kept)
    refused = says(*annotation("finished"), "--allow-mixed", "--dry-run", at=kept, code=2)
    assert ("captions.options.place: '' in the run" in refused, "hunter2" in refused) == (True, False)
    says("export", "finished", "table", "--format", "parquet", at=kept)
    says("audit", "draw", "finished", "audit", "--source", "images", at=kept)
    written = [path.read_bytes() for folder in ("table", "audit") for path in (kept / folder).rglob("*.json")]
    assert "https://host/set.tar?…".encode() in b"".join(written)
    assert b"hunter2" not in b"".join(written)


def test_what_is_made_of_it_repeats_no_secret_and_what_0_5_made_of_it_goes_on(kept, caplog):
    url, token = "s3://versions/images?sig=hunter2", "github_pat_hunter2hunter2hunter2"

    def plant(tree: dict) -> None:
        tree["source"] = tree["config"]["masks"]["weights"]["uri"] = url

    def plant_all(tree: dict) -> None:
        plant(tree)
        for method in (tree["config"], tree["identity"]["method"]):
            method["captions"] |= {"engine": "another", "options": {"place": token}}

    forge(kept / "finished", plant_all)
    command = ("refilter", "finished", "stricter", "--tau", "2")
    told = says(*command, at=kept) + caplog.text
    assert "name their place (--source)" in told
    written = [path.read_bytes() for path in (kept / "stricter").rglob("*") if path.is_file()]
    assert b"s3://versions/images?\xe2\x80\xa6" in b"".join(written)
    assert not any(b"hunter2" in data for data in (*written, told.encode()))
    for edit in (lambda tree: None, plant):
        forge_header(RunLocation.open(str(kept / "stricter")), edit)
        (part, *_) = (kept / "stricter" / "masks").iterdir()
        part.unlink()
        assert "hunter2" not in says(*command, "--repair", at=kept)
        says("verify", "stricter", at=kept)


def test_what_is_made_of_it_has_its_source_also_where_its_folders_have_capitals_and_digits(kept):
    source = "/mnt/leftImg8bit/trainX2/cityScapes2x/AB"
    forge(kept / "finished", lambda tree: tree.update(source=source))
    says("refilter", "finished", "of_folder", "--tau", "2", at=kept)
    assert require_header(RunLocation.open(str(kept / "of_folder"))).source == source


def test_its_half_is_opened(kept):
    assert "shards 1 to 3 have no receipt" in says("verify", "half", at=kept, code=1)


def test_its_samples_are_read(kept):
    samples = RisDataset(str(kept / "finished"), SampleSpec(groups=True, none=0.2))
    assert len(samples)
    assert samples[0]["image"].ndim == 3


def test_it_is_exported(kept):
    says("export", "finished", "coco", "--format", "coco", at=kept)
    written = json.loads((next((kept / "coco" / "annotations").glob("*.json"))).read_text(encoding="utf-8"))
    assert len(written["annotations"]) == len(rows(kept / "finished", "masks"))


def test_it_is_refiltered(kept):
    says("refilter", "finished", "stricter", "--tau", "2", at=kept)
    says("verify", "stricter", at=kept)
    assert any(row["kept"] for row in rows(kept / "stricter", "expressions"))


def test_it_is_combined_and_columns_that_it_lacks_are_null(kept):
    shutil.copytree(kept / "finished", kept / "again")
    forge(kept / "again", lambda tree: tree.update(created_utc="2026-01-01T00:00:00+00:00"))
    says("combine", "finished", "again", "both", at=kept)
    says("verify", "both", at=kept)
    for table in SCHEMAS:
        written = rows(kept / "both", table)
        assert len(written) == 2 * len(rows(kept / "finished", table))
        lacked = set(SCHEMAS[table].names) - set(ds.dataset(kept / "finished" / table).schema.names)
        assert all(row[name] is None for row in written for name in lacked)
    texts = [[row["text"] for row in rows(kept / run, "expressions")] for run in ("finished", "both")]
    assert sorted(texts[0] * 2) == sorted(texts[1])
    says("refilter", "both", "stricter", "--tau", "2", at=kept)
    says("verify", "stricter", at=kept)
    says("combine", "finished", "alone", at=kept)
    tables = {name: data for name, data in parts(kept / "finished").items() if not name.startswith("_")}
    assert tables.items() <= parts(kept / "alone").items()


def test_composed_anew_after_it_was_combined_it_differs_in_what_is_composed_alone(kept):
    again = ("--set", "composing.min_further=0.8")
    says("combine", "named=finished", "combined", at=kept)
    says("refilter", "combined", "anew", *again, at=kept)
    says("refilter", "finished", "apart", *again, at=kept)
    says("combine", "named=apart", "due", at=kept)
    for run in ("anew", "due"):
        says("verify", run, at=kept)
    found, due = ([row for row in rows(kept / run, "expressions")] for run in ("anew", "due"))
    # Ids decide which absences are drawn, and with which kind a mask begins.
    there = [[row for row in each if row["source"] != "composer"] for each in (found, due)]
    assert there[0] == there[1]
    masks = [{str(row["target_mask_ids"]) for row in each if row["source"] == "composer"} for each in (found, due)]
    assert masks[0] == masks[1]
    assert rows(kept / "anew", "masks") == rows(kept / "combined", "masks")


# Only a run of 0.5.0 may hold a query that `source.allowed_query` does not allow.
TAKES_QUERIES = pytest.mark.parametrize("kept", VERSIONS[:1], indirect=True, ids=[VERSIONS[0].name])


def resume(kept: Path, half: str, *words: str) -> str:
    """Finish a half run; return what that printed. Committed parts stay, and every image is there once."""
    before = parts(kept / half)
    shown = says(*words, "--allow-mixed", at=kept)
    says("verify", half, at=kept)
    after = parts(kept / half)
    assert before.items() <= after.items()
    assert len(before) < len(after)
    for table in ("images", "failures"):
        names = [[row["image_id"] for row in rows(kept / run, table)] for run in (half, "finished")]
        assert sorted(names[0]) == sorted(names[1])
    return shown


# The last one is resumed as any run of this version is.
EARLIER = [*VERSIONS[:-1], pytest.param(VERSIONS[-1], marks=pytest.mark.long)]


@pytest.mark.ray
@pytest.mark.parametrize("kept", EARLIER, indirect=True, ids=[folder.name for folder in VERSIONS])
def test_its_half_is_resumed_and_every_reader_takes_parts_of_both_versions(kept, ray_session, s3_server):
    resume(kept, "half", *annotation("half"), "--set", f"source.endpoint_url={s3_server.endpoint_url}")
    glob, ids = str(kept / "half" / "images" / "*.parquet"), [row["image_id"] for row in rows(kept / "half", "images")]
    tables = [
        open_run(str(kept / "half")).images().to_table(),
        pa.Table.from_pandas(pd.read_parquet(kept / "half" / "images", schema=IMAGES_SCHEMA)),
        pl.scan_parquet(glob, missing_columns="insert", extra_columns="ignore").collect().to_arrow(),
        duckdb.sql(f"SELECT * FROM read_parquet('{glob}', union_by_name = true)").to_arrow_table(),
    ]
    assert {tuple(sorted(each["image_id"].to_pylist())) for each in tables} == {tuple(sorted(ids))}
    versions = {pq.read_schema(part).metadata[b"pseudoris.version"] for part in Path(glob).parent.iterdir()}
    is_older = kept.name in {"0.5.0", "0.6.0"}
    assert versions == ({b"5", b"6"} if is_older else {b"6"})
    # What cannot be read has no hash either.
    num_null = len(ids) if is_older else 1
    assert [each["phash"].null_count for each in (tables[0], tables[1], tables[3])] == [num_null] * 3


@pytest.mark.ray
@pytest.mark.long
def test_its_half_is_resumed_from_the_folder_that_its_images_have_moved_to(kept, ray_session):
    shutil.copytree(kept / "images", kept / "moved")
    resume(kept, "half", "annotate", "moved", *annotation("half", "--moved-from", SOURCE)[2:])
    receipts = [json.loads(path.read_bytes()) for path in sorted((kept / "half" / "_receipts").iterdir())]
    assert {receipt.get("source") for receipt in receipts} == {None, str(kept / "moved")}


def test_a_part_as_this_version_writes_it_holds_the_bytes_of_its_version(kept):
    for run, table in ((run, table) for run in ("finished", "half") for table in SCHEMAS):
        for part in (kept / run / table).iterdir():
            with part.open("rb") as file:
                now = table_bytes(read_part(file, SCHEMAS[table], part.name))
            is_older = pq.read_schema(part).metadata[b"pseudoris.version"] == b"5"
            assert is_older == (kept.name in {"0.5.0", "0.6.0"})
            assert (bytes_of_version_5(table, now) if is_older else now) == part.read_bytes()
            assert is_older == (now != part.read_bytes())


@pytest.fixture
def url(kept, s3_server):
    """The images of a run, at a place whose name holds a query."""
    return s3_server.put_folder(kept / "images", "versions", "images?sig=hunter2")


@pytest.mark.ray
@TAKES_QUERIES
@pytest.mark.long
def test_new_captions_for_its_masks_repeat_no_secret_that_is_not_allowed(kept, url, ray_session, s3_server):
    def plant(tree: dict) -> None:
        tree["source"] = url
        tree["config"]["masks"]["weights"]["uri"] = "https://host/sam.pth?code=hunter3"
        tree["config"]["source"]["endpoint_url"] = s3_server.endpoint_url

    forge(kept / "finished", plant)
    settings = ("--config", "config.yaml", "--set", f"source.endpoint_url={s3_server.endpoint_url}", "--allow-mixed")
    command = ("annotate", url, "new", "--masks-from", "finished", *settings)
    refused = pseudoris_here(*command, cwd=kept)
    assert (refused.returncode, "source.allowed_query=[sig]" in refused.stderr) == (2, True), refused.stderr
    for _ in range(2):
        says(*command, "--set", "source.allowed_query=[sig]", at=kept)
    says("verify", "new", at=kept)
    header = (kept / "new" / "_run.json").read_text(encoding="utf-8")
    assert ("sig=hunter2" in header, "hunter3" in header) == (True, False)


# A run of `tiny` that 0.5.0 began without naming a preset goes on without one.
@pytest.mark.ray
@TAKES_QUERIES
@pytest.mark.long
def test_its_half_of_tiny_is_resumed_whose_header_holds_a_query_and_shows_none_of_it(
    kept, url, ray_session, s3_server, caplog
):
    forge_header(RunLocation.open(str(kept / "half-tiny")), lambda tree: tree.update(source=url))
    settings = ("shards.max_images=2", f"source.endpoint_url={s3_server.endpoint_url}")
    words = [word for each in settings for word in ("--set", each)]
    assert "hunter2" not in resume(kept, "half-tiny", "annotate", url, "half-tiny", *words) + caplog.text


# All of `pseudoris` that the docs of 0.5.0 name, but for `workers.domain_scorer`, which went with the domain gate.
PATHS = """
    pseudoris.deploy.job_entry pseudoris.primitives.errors.refuse_other_version pseudoris.synthworld.demo
    pseudoris.training.evaluation.Truth pseudoris.training.exclusions pseudoris.training.learning
    pseudoris.training.learning.clip_features pseudoris.training.metrics pseudoris.training.ppt.pairs
    pseudoris.workers.captions.distinctive pseudoris.workers.checkpoints.sam_architectures
    pseudoris.workers.faults.quarantine.apply_to_images pseudoris.workers.filtering.scorer
"""


@pytest.mark.parametrize("path", PATHS.split())
def test_a_dotted_path_of_the_docs_of_0_5_0_is_still_there(path):
    pkgutil.resolve_name(path)


def test_the_command_that_writes_hashes_runs_at_its_place_of_0_5_0(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["exclusions", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("pseudoris.training.exclusions", run_name="__main__")
    assert "python -m pseudoris.interchange.exclusions" in capsys.readouterr().out

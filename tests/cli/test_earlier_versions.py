"""What another version wrote, or an old word of a setting: refused in one sentence, with what to do."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch

from pseudoris.files.location import RunLocation
from pseudoris.schemas.run_records import HEADER_NAME, RECORDS_VERSION
from pseudoris.schemas.tables import TABLES_VERSION
from tests.builders.command import pseudoris_here
from tests.builders.images import png
from tests.builders.scored_runs import scored_run
from tests.builders.seals import edit_sealed


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("earlier") / "out"
    scored_run(RunLocation.open(str(out)))
    return out


@pytest.fixture
def out(written, tmp_path):
    return shutil.copytree(written, tmp_path / "out")


def refused(name: object, version: object, known: int, remedy: str) -> str:
    return f"error {name} is of version {version!r}, and this pseudoris reads version {known} alone: {remedy}"


@pytest.mark.parametrize(
    "words",
    [
        ("status", "out"),
        ("verify", "out"),
        ("stats", "out"),
        ("gc", "out"),
        ("export", "out", "exported", "--format", "coco"),
        ("refilter", "out", "new", "--tau", "1.2"),
        ("gallery", "out"),
        ("audit", "draw", "out", "audit"),
        pytest.param(("train", "student", "out", "--out", "student"), marks=pytest.mark.slow),
        ("ppt", "pairs", "out", "pairs"),
        ("annotate", "--preset=tiny", "images", "out", "--dry-run"),
    ],
    ids=lambda words: words[0],
)
def test_a_run_of_an_earlier_version_is_refused_in_one_sentence(out, words):
    (out.parent / "images").mkdir()
    edit_sealed(RunLocation.open(str(out)), HEADER_NAME, lambda tree: tree.update(version=2))
    ended = pseudoris_here(*words, cwd=out.parent, code=2)
    remedy = "annotate again, or use the pseudoris that wrote it"
    assert ended.stderr.splitlines()[-1] == refused(out / HEADER_NAME, 2, RECORDS_VERSION, remedy)


def test_a_table_of_another_version_is_refused_in_one_sentence(out):
    part = min((out / "masks").glob("*.parquet"))
    table = pq.read_table(part)
    older = {**table.schema.metadata, b"pseudoris.version": b"1"}
    pq.write_table(table.replace_schema_metadata(older), part)
    remedy = "annotate again, or use the pseudoris that wrote it"
    ended = pseudoris_here("stats", "out", cwd=out.parent, code=2)
    assert ended.stderr.splitlines()[-1] == refused(part, 1, TABLES_VERSION, remedy)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "student", "out", "--out", "student", "--resume"),
        ("predict", "image.png", "the star", "--model", "student", "--out", "seen.png"),
    ],
    ids=lambda words: words[0],
)
def test_a_training_of_an_earlier_version_is_refused_in_one_sentence(out, words):
    folder = out.parent / "student"
    folder.mkdir()
    # Version 0.4 wrote no version into its settings.
    settings = {"learner": "chooser", "config": {}, "runs": []}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    torch.save({"module": {}, "settings": json.dumps(settings)}, folder / "checkpoint.pt")
    (out.parent / "image.png").write_bytes(png())
    file = "student/config.json" if "--resume" in words else "student/checkpoint.pt"
    ended = pseudoris_here(*words, cwd=out.parent, code=2)
    assert ended.stderr.splitlines()[-1] == refused(file, 1, 2, "train again, or use the pseudoris that wrote it")

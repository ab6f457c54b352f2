"""`pseudoris sample` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.plan import read_shard_plan
from tests.builders.scored_runs import begin, scored_run, scored_shard


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "run"
    scored_run(RunLocation.open(str(out)), has_humans=True)
    return str(out)


def invoke(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["sample", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_json_gives_an_object_a_line_and_only_what_is_kept(out):
    rows = [
        json.loads(line) for line in invoke(out, "-n", "7", "--json", "--columns", "text, kept,mask_id").splitlines()
    ]
    assert len(rows) == 7
    assert all(list(row) == ["text", "kept", "mask_id"] for row in rows)
    assert {row["kept"] for row in rows} == {True}


def test_csv_reads_back_and_holds_lists_as_json(out):
    text = invoke(out, "-n", "5", "--csv", "--columns", "text,target_mask_ids,segmentation,distinctiveness")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 5
    assert all(isinstance(json.loads(row["target_mask_ids"]), list) for row in rows)
    assert json.loads(rows[0]["segmentation"])["size"] == [12, 20]


def test_mistakes_say_what_is_allowed(out, tmp_path):
    for arguments, message in [
        ([out, "--columns", "text,nonsense"], "no column 'nonsense': give some of image_id, target_mask_ids"),
        ([out, "--columns", ""], "no column ''"),
        ([out, "--columns", "text,key, text"], "the column 'text' is asked for twice: give it once"),
        ([out, "--json", "--csv"], "exclude each other"),
        ([str(tmp_path)], "there is no run"),
    ]:
        with pytest.raises(ConfigError, match=message):
            invoke(*arguments)


def test_words_of_strangers_do_not_rule_the_terminal(tmp_path):
    location = RunLocation.open(str(tmp_path / "run"))
    header = begin(location, num_shards=1, per_shard=1)
    entries = read_shard_plan(location, header, 0)
    shard = scored_shard(header.config, entries)
    (image,) = shard.images
    rude = tuple(
        replace(each, text=f"a\x1b[2Jcircle :smile: {n}", kept=True) for n, each in enumerate(image.expressions[:1])
    )
    commit_shard(
        location,
        shard.with_images((replace(image, expressions=rude),)),
        planned_ids=[entry.image_id for entry in entries],
        embed_images=False,
        provenance=Provenance(header_sha256=header.sha256),
    )
    shown = invoke(location.root, "--columns", "text")
    assert "\x1b" not in shown
    assert r"a\x1b[2Jcircle :smile: 0" in shown

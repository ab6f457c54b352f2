"""`pseudoris stats`, `sample` and `parts` as a user meets them."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from tests.builders.command import invoke, start_pseudoris
from tests.builders.scored_runs import scored_run
from tests.store.builders import commit, start_run


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("stats") / "run"
    scored_run(RunLocation.open(str(out)), has_humans=True)
    return str(out)


def printed(*words: object, columns: int = 160) -> str:
    return invoke(*words, columns=columns).stdout


def test_every_figure_is_shown(out):
    shown = printed("stats", out, "--top", "2")
    for words in (
        *("20 of 20 images committed", "4 quarantined", "from the tables of 4 of 4 shards", "masks an image"),
        *("kept on a mask", "words, kept", "uniqueness", "correctness", "distinctiveness", "log_prob", "median"),
        *("by source", "human", "by decoder", "top_p", "by crop", "context_1.2", "most frequent kept expressions"),
    ):
        assert words in shown


def test_json_holds_the_same_figures(out):
    tree = json.loads(printed("stats", out, "--json", "--sample", "2", "--top", "1"))
    assert tree["totals"]["images"] == 20
    assert tree["num_shards_read"] == 2
    assert tree["distributions"]["masks an image"]["quantiles"]["1"] == 3
    assert set(tree["groups"]) == {"source", "decoder", "crop"}
    human = tree["groups"]["source"]["human"]
    assert human["share"] == 1.0
    assert set(human) == {"candidates", "kept", "share"}
    assert set(tree["groups"]["crop"]["masked"]) == {"draws", "kept", "share"}
    assert len(tree["top"]) == 1
    assert json.loads(printed("stats", out, "--json", "--every"))["num_shards_read"] == 4


def test_a_run_without_a_commit_shows_no_figure(tmp_path):
    start_run(RunLocation.open(str(tmp_path / "run")))
    shown = printed("stats", str(tmp_path / "run"))
    assert "0 of 12 images committed" in shown
    assert "–" in shown
    assert "None is kept. --all draws from all candidates." in printed("sample", str(tmp_path / "run"))


def test_json_gives_an_object_a_line_and_only_what_is_kept(out):
    rows = [
        json.loads(line)
        for line in printed("sample", out, "-n", "7", "--json", "--columns", "text, kept,mask_id").splitlines()
    ]
    assert len(rows) == 7
    assert all(list(row) == ["text", "kept", "mask_id"] for row in rows)
    assert {row["kept"] for row in rows} == {True}


def test_csv_reads_back_and_holds_lists_as_json(out):
    text = printed("sample", out, "-n", "5", "--csv", "--columns", "text,target_mask_ids,segmentation,distinctiveness")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 5
    assert all(isinstance(json.loads(row["target_mask_ids"]), list) for row in rows)
    assert json.loads(rows[0]["segmentation"])["size"] == [12, 20]


def test_a_table_shows_by_default_the_columns_that_have_values(out, tmp_path):
    named = printed("sample", out, "-n", "3", "--columns", "text,confidence").splitlines()[0].split()
    assert named == ["text", "confidence"]
    headers = printed("sample", out).splitlines()[0].split()
    assert headers == ["key", "text", "kind", "distinctiveness", "correctness", "decoder", "crop"]


def test_a_table_loses_no_letter_in_a_narrow_terminal(out):
    wide, narrow = (Counter("".join(printed("sample", out, columns=columns).split())) for columns in (300, 80))
    assert narrow == wide


@pytest.mark.slow
@pytest.mark.parametrize("form", [["--csv"], []])
def test_a_reader_that_goes_away_ends_it_without_a_word(out, form):
    process = start_pseudoris("sample", out, "-n", "20000", *form)
    # Its first write finds no reader, as after `| head`.
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=600)) == ("", 141)


def test_mistakes_say_what_is_allowed(out):
    for arguments, message in [
        ([out, "--columns", "text,nonsense"], "no column 'nonsense': give some of image_id, target_mask_ids"),
        ([out, "--columns", ""], "no column ''"),
        ([out, "--columns", "text,key, text"], "the column 'text' is asked for twice: give it once"),
        ([out, "--json", "--csv"], "exclude each other"),
    ]:
        with pytest.raises(ConfigError, match=message):
            printed("sample", *arguments)


def lines(*words: object) -> list[str]:
    return printed("parts", *words, columns=40).splitlines()


def test_each_line_is_a_path_of_the_latest_generation_and_reads(tmp_path):
    location = RunLocation.open(str(out := tmp_path / "a run é"))
    header = start_run(location)
    commit(location, header, 0, 1)
    commit(location, header, 1, generation=1)
    # A part of a writer who came second.
    location.replace("expressions/shard-00000000.g0-00000000.parquet", b"lost")
    paths = lines(out)
    assert [path.rpartition("/")[2][:17] for path in paths] == ["shard-00000000.g0", "shard-00000001.g1"]
    assert len(list((out / "expressions").iterdir())) == 4
    assert pq.ParquetDataset(paths).read().num_rows == 12
    rows = [json.loads(line) for line in lines(out, "--json")]
    assert [(row["shard"], row["generation"], row["rows"]) for row in rows] == [(0, 0, 6), (1, 1, 6)]
    assert {"path", "table", "size_bytes", "sha256"} <= rows[0].keys()
    with pytest.raises(ConfigError, match=r"no table 'captions'\. Give --table images, masks"):
        lines(out, "--table", "captions")

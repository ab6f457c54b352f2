"""`export --rewording`: the forms of an expression as further sentences of its masks, in each format."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import pseudoris
from pseudoris.files.key_order import path_key
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.shard import SOURCE_COMPOSER, SOURCE_HUMAN
from tests.builders.command import invoke
from tests.interchange.exports.builders import build_run, jpeg, stored
from tests.interchange.exports.loading import LOADERS
from tests.store.builders import make_expression

SAID = ("a photo of a red star", "a picture of a red star", "the dog below the box", "a dog sits on a mat")
PICTURES = (
    (path_key("a.jpg"), jpeg(), (SAID, ("the cat on the left", "the big red ring"))),
    (path_key("b.jpg"), jpeg(), (("close up of a hat on a white plate",),)),
)
# Of all forms; an opening goes, "under", "the left cat" and "red big ring" never come.
DUE = {
    ("a red star", "the red star", "red star", "the dog below the box", "dog below the box", "a dog sits on a mat"),
    ("the cat on the left", "cat on the left", "the big red ring", "big red ring"),
    ("a hat on a white plate", "the hat on a white plate", "hat on a white plate"),
}
HAS_PLAIN_PATHS = True


def further(key, masks):
    """Yield what a person wrote, and an absence."""
    if key == "b.jpg":
        human, absence = (make_expression("", text) for text in ("a photo of a man", "a green fork"))
        yield replace(human, target_mask_ids=(masks[0].mask_id,), source=SOURCE_HUMAN)
        yield replace(absence, target_mask_ids=(), source=SOURCE_COMPOSER)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reworded")
    for per_shard in (1, 2):
        build_run(folder / f"{per_shard}-a-shard", PICTURES, per_shard=per_shard, more=further)
    return folder / "2-a-shard"


def said(root: Path, name: str) -> list[Counter[str]]:
    return [Counter(mask.texts) for mask in LOADERS[name](root)]


@pytest.mark.parametrize("name", sorted(LOADERS))
def test_loaders_read_the_forms_as_sentences_of_the_same_mask(run, tmp_path, name):
    invoke("export", run, tmp_path / "export", "--format", name, "--rewording", "10")
    due = [Counter(texts) for texts in DUE]
    # A person's words stay.
    next(texts for texts in due if "hat on a white plate" in texts)["a photo of a man"] += 1
    assert sorted(map(sorted, said(tmp_path / "export", name))) == sorted(map(sorted, due))
    invoke("export", run, tmp_path / "one", "--format", name, "--rewording", "1")
    for mask, of_all in zip(said(tmp_path / "one", name), said(tmp_path / "export", name), strict=True):
        assert set(mask) <= set(of_all)
    assert sum(map(len, said(tmp_path / "one", name))) == sum(map(len, due)) - 1


@pytest.mark.parametrize("name", ["refer", "grefcoco", "coco", "sam3", "parquet"])
def test_the_same_sentences_come_again_and_from_shards_of_another_size(run, tmp_path, name):
    def exported(folder):
        place = tmp_path / f"{folder.name}-{len(list(tmp_path.iterdir()))}"
        pseudoris.export(folder, place, name, rewording=2)
        return {
            path: (place / path).read_bytes()
            for path in stored(place)
            if path not in ("_export.json", "croissant.json")
        }

    first = exported(run)
    assert exported(run) == first
    if name != "parquet":
        assert exported(run.parent / "1-a-shard") == first


def test_rows_and_records_name_the_text_that_they_reword_and_keep_its_source(run, tmp_path):
    found = [pseudoris.export(run, tmp_path / f"parquet-{number}", rewording=number) for number in (0, 3)]
    plain, reworded = (pq.read_table(tmp_path / f"parquet-{number}/expressions") for number in (0, 3))
    num_further = reworded.num_rows - plain.num_rows
    assert [len(each.notes) for each in found] == [0, 1]
    assert found[1].notes[0].startswith(f"{num_further} further sentences by --rewording")
    rows = reworded.to_pylist()
    assert reworded.schema.names == [*plain.schema.names, "rewording_of"]
    own = [{name: row[name] for name in plain.schema.names} for row in rows if row["rewording_of"] is None]
    assert own == [
        row
        for row in plain.to_pylist()
        if row["text"] not in ("a photo of a red star", "a picture of a red star", PICTURES[1][2][0][0])
    ]
    of = {row["text"]: (row["rewording_of"], row["source"]) for row in rows}
    assert of["the red star"] == ("a picture of a red star", "model")
    assert of["green fork"] == ("a green fork", "composer")
    pseudoris.export(run, tmp_path / "coco", "coco", rewording=3)
    captions = json.loads((tmp_path / "coco/annotations/captions_train.json").read_text())["annotations"]
    found = {each["caption"]: each.get("rewording_of") for each in captions}
    assert (found["the red star"], found["a dog sits on a mat"]) == ("a picture of a red star", None)


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("refer", -1, "--rewording -1 is not possible: give a whole number from 0 to 10"),
        ("refer", 11, "--rewording 11 is not possible"),
        ("refer", "two", "--rewording 'two' is not possible"),
        ("refer", None, "--rewording None is not possible: give a whole number from 0 to 10"),
        ("label-studio", 1, "--format label-studio does not use --rewording, which belongs to parquet, refer"),
    ],
)
def test_a_number_out_of_its_bounds_is_one_sentence(run, tmp_path, name, number, message):
    with pytest.raises(ConfigError, match=message):
        pseudoris.export(run, tmp_path / "export", name, rewording=number)
    assert not (tmp_path / "export").exists()

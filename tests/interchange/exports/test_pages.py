"""The pages on exports, followed literally: their lines run where a user pastes them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pseudoris.interchange.exports import EXPORTS
from tests.interchange.exports.builders import export
from tests.interchange.exports.readers_cris import folder2lmdb

DOCS = Path(__file__).parents[3] / "docs"
PUBLISHED = Path(__file__).parent / "readers_cris_published.py"
HAS_PLAIN_PATHS = True


def snippets(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def pasted(*lines: str) -> ModuleType:
    """Return a fresh copy of the trainers' module after the lines were added at its end."""
    spec = importlib.util.spec_from_file_location("utils_dataset", PUBLISHED)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for each in lines:
        exec(compile(each, "a line of the page", "exec"), vars(module))
    return module


def length_line(report) -> str:
    """Return the line that the export prints for the trainer's table."""
    (line,) = re.findall(r"info\['refcoco'\]\['\w+'\] = \d+", " ".join(report.notes))
    return line


(READER,) = snippets("guides/exports.md")


@pytest.mark.parametrize("mode", ["train", "val"])
def test_the_trainers_read_the_lmdb_with_the_lines_of_the_page(exported, built_run, mode):
    root, report = exported("lmdb", split="val")
    module = pasted(READER, length_line(report))
    dataset = module.RefDataset(f"{root}/lmdb/refcoco/val.lmdb", f"{root}/masks/refcoco", "refcoco", "val", mode)
    length = len(dataset)
    fits = [mask for masks in built_run.with_texts(lambda text: len(text.split()) < 15).values() for mask in masks]
    read = [dataset[at] for at in range(length)]
    # The length of the table is that of the file, which the trainer reads later.
    assert len(dataset) == length == len(fits)
    for (image, text, mask), due in zip(read, fits, strict=True):
        assert image.shape[:2] == mask.shape
        assert np.array_equal(mask == 1, due.pixels)
        assert text in due.texts
    dataset.env.close()


def test_published_cris_reads_what_its_own_tool_writes_of_the_cris_export_with_the_same_lines(built_run, place):
    report = export("cris", built_run, place)
    path = folder2lmdb(Path(place.root), "refcoco", "train")
    with pytest.raises(AttributeError, match="has no attribute 'deserialize'"):
        pasted().RefDataset(str(path), "", "refcoco", "train", "train")[0]
    dataset = pasted(READER, length_line(report)).RefDataset(str(path), "", "refcoco", "train", "train")
    assert all(text for _, text, _ in (dataset[at] for at in range(len(dataset))))
    dataset.env.close()
    assert any("CRIS as published cannot read" in note and "`import pickle`" in note for note in report.notes)


@pytest.mark.parametrize(("name", "number"), [("webdataset", 0), ("hf", 1)])
def test_the_snippets_of_the_other_formats_read_the_export(built_run, place, name, number, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", f"{place.root} cache")
    report = export(name, built_run, place)
    names = {}
    exec(compile(snippets("reference/formats.md")[number].replace("DEST", place.root), name, "exec"), names)
    found = [*names["samples"]] if name == "webdataset" else names["rows"]
    assert len(found) == next(iter(report.rows.values()))


def format_rows() -> dict[str, list[str]]:
    """Return the cells of the page's table of formats, by format."""
    text = (DOCS / "guides" / "exports.md").read_text(encoding="utf-8")
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in re.findall(r"^\| .*", text, re.MULTILINE)]
    return {name[1]: row for row in rows if len(row) >= 5 and (name := re.match(r"\[?`([\w-]+)`", row[0]))}


@pytest.mark.parametrize("name", EXPORTS)
def test_the_table_of_formats_says_what_each_leaves_out(name):
    if name == "parquet":
        # It copies the tables.
        assert format_rows()[name][3:] == ["yes", "yes", "nothing"]
        return
    takes, (_, _, _, several, none, *rest) = EXPORTS[name].takes, format_rows()[name]
    left_out = rest[0].replace("\\", "") if rest else ""
    assert (several in ("yes", "as one mask"), none == "yes") == (takes.with_groups, takes.with_none)
    assert re.findall(r"\d+", left_out) == ([] if takes.max_tokens is None else [str(takes.max_tokens)])
    assert "placeholder" in left_out or all(f"`{each}`" in left_out for each in takes.refused)
    assert bool(takes.refused) == ("texts with" in left_out)

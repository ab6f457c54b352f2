"""What the tools of CRIS and ETRIS find on disk: records, mask files, the length to be told, and the LMDB."""

from __future__ import annotations

import json
import pickletools
import re
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, TransientError
from tests.interchange.exports.builders import build_run, export, jpeg, stored
from tests.interchange.exports.readers_cris import CrisDataset, folder2records


def records_of(root: Path) -> list[dict]:
    return json.loads((root / "anns/refcoco/train.json").read_text())


def test_trap_masks_are_of_one_channel_of_0_and_255_and_of_the_images_size(exported):
    root, _ = exported("cris")
    for record in records_of(root):
        with Image.open(root / "masks/refcoco" / f"{record['segment_id']}.png") as mask:
            with Image.open(root / "images/train2014" / record["img_name"]) as image:
                assert mask.size == image.size
            assert mask.mode == "L"
            assert set(np.unique(np.asarray(mask))) == {0, 255}
            ys, xs = np.nonzero(np.asarray(mask))
        assert record["bbox"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_trap_segment_and_sentence_ids_are_unique_and_beside_those_of_the_human_data(exported):
    records = records_of(exported("cris")[0])
    segments = [record["segment_id"] for record in records]
    sentences = [sentence["sent_id"] for record in records for sentence in record["sentences"]]
    assert (len(set(segments)), len(set(sentences))) == (len(segments), len(sentences))
    # Human masks lie in the same folder, under their ref_ids; RefCOCO, RefCOCO+ and RefCOCOg have below 150,000.
    assert min(segments) > 150_000


def test_trap_the_hard_coded_length_is_printed_as_the_table_of_the_trainer_wants_it(exported):
    root, report = exported("cris")
    (number,) = re.findall(r"info\['refcoco'\]\['train'\] = (\d+)\.", " ".join(report.notes))
    assert int(number) == len(records_of(root)) == report.rows["records of train"]
    (command,) = [note for note in report.notes if "folder2lmdb" in note]
    places = re.search(r"-j (\S+) -i (\S+) -m (\S+) -o lmdb/refcoco", command).groups()
    assert all((root / place).exists() for place in places)


def test_trap_a_name_that_the_trainers_table_does_not_know_is_told(built_run, place):
    report = export("cris", built_run, place, dataset="harvest", split="val")
    number = report.rows["records of val"]
    assert any(f"info['harvest'] = {{'val': {number}}}" in note for note in report.notes)
    assert len(folder2records(Path(place.root), "harvest", "val")) == number


# The LMDB, opened by readers that do what theirs do.


def test_trap_values_are_pickles_of_protocol_four_or_lower_that_name_no_class(exported):
    path = str(exported("lmdb")[0] / "lmdb/refcoco/train.lmdb")
    with lmdb.open(path, subdir=False, readonly=True, lock=False) as environment, environment.begin() as transaction:
        values = [bytes(value) for _, value in transaction.cursor()]
    for value in values:
        codes = list(pickletools.genops(value))
        assert next(argument for code, argument, _ in codes if code.name == "PROTO") <= 4
        assert not {code.name for code, _, _ in codes} & {"GLOBAL", "STACK_GLOBAL", "REDUCE"}


def test_the_records_are_those_that_the_trainers_tool_makes_of_the_cris_export(exported):
    dataset = CrisDataset(exported("lmdb")[0])
    assert len(dataset) == len(dataset.keys)
    ours = [{key: value for key, value in dataset[at].items() if key != "img_id"} for at in range(len(dataset))]
    assert ours == folder2records(exported("cris")[0], "refcoco", "train")
    dataset.close()


@pytest.mark.slow
def test_many_transactions_hold_what_one_does(tmp_path, place):
    """The first two records fill more than one transaction may hold."""
    large = jpeg() + bytes(33 * 2**20)
    run = build_run(tmp_path / "run", (("a.jpg", large, (("one",), ("two",), ("three",))),))
    export("lmdb", run, place)
    dataset = CrisDataset(Path(place.root))
    assert [(dataset[at]["img"] == large, dataset[at]["sents"]) for at in range(3)] == [
        *((True, ["one"]), (True, ["two"]), (True, ["three"]))
    ]
    dataset.close()


def test_without_its_package_the_format_says_what_to_install(built_run, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ConfigError, match=r"pip install 'pseudoris\[lmdb\]'"):
        export("lmdb", built_run, place)
    assert not Path(place.root).exists()


def test_a_copy_that_differs_is_told(built_run, place, monkeypatch):
    real = RunLocation.replace_by

    def damaged(self, path, local):
        real(self, path, local)
        self.replace(path, self.read_bytes(path) + b"x")

    monkeypatch.setattr(RunLocation, "replace_by", damaged)
    with pytest.raises(TransientError, match=r"train\.lmdb reads back differently: its bytes are not those"):
        export("lmdb", built_run, place)


def test_a_disk_that_does_not_take_it_is_told(built_run, place, monkeypatch):
    # As with a full disk: LMDB's own kind of error, from the midst of its work.
    real = lmdb.open
    monkeypatch.setattr(lmdb, "open", lambda path, **options: real(path, **{**options, "map_size": 12_288}))
    with pytest.raises(ConfigError, match=r"An LMDB cannot be written in .*Free space"):
        export("lmdb", built_run, place)
    assert not stored(place.root)

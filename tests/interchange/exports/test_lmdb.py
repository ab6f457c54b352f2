"""The LMDB of CRIS and ETRIS, opened by readers that do what theirs do."""

from __future__ import annotations

import pickle
import pickletools
import sys
from pathlib import Path

import lmdb
import pytest

from pseudoris.interchange.exports import cris
from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.store.location import RunLocation
from tests.interchange.exports.builders import export, stored
from tests.interchange.exports.readers_cris import CrisDataset, folder2records


@pytest.fixture(scope="module")
def exported(built_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("lmdb") / "datasets"
    return root, export("lmdb", built_run, RunLocation.open(str(root)))


def opened(root: Path, length: int, dataset: str = "refcoco", split: str = "train") -> CrisDataset:
    return CrisDataset(root, dataset, split, {dataset: {split: length}})


def test_trap_the_number_of_records_equals_len_and_keys(exported):
    root, report = exported
    dataset = opened(root, report.rows["records of train"])
    assert dataset.stored_length == len(dataset) == len(dataset.keys)
    assert dataset.keys == [str(number).encode() for number in range(len(dataset))]
    with dataset.env.begin() as transaction:
        assert transaction.stat()["entries"] == len(dataset) + 2
    dataset.close()


def test_trap_values_are_pickles_of_protocol_four_or_lower_that_name_no_class(exported):
    root, _ = exported
    path = str(root / "lmdb/refcoco/train.lmdb")
    with lmdb.open(path, subdir=False, readonly=True, lock=False) as environment, environment.begin() as transaction:
        values = [bytes(value) for _, value in transaction.cursor()]
    for value in values:
        codes = list(pickletools.genops(value))
        assert next(argument for code, argument, _ in codes if code.name == "PROTO") <= 4
        assert not {code.name for code, _, _ in codes} & {"GLOBAL", "STACK_GLOBAL", "REDUCE"}


def test_the_records_are_those_that_the_trainers_tool_makes_of_the_cris_export(exported, built_run, place):
    root, report = exported
    export("cris", built_run, place)
    dataset = opened(root, report.rows["records of train"])
    ours = [{key: value for key, value in dataset[at].items() if key != "img_id"} for at in range(len(dataset))]
    assert ours == folder2records(Path(place.root), "refcoco", "train")
    dataset.close()


def test_many_transactions_hold_what_one_does(exported, built_run, place, monkeypatch):
    monkeypatch.setattr(cris, "_COMMIT_BYTES", 1_000)
    report = export("lmdb", built_run, place)
    one, many = (opened(root, report.rows["records of train"]) for root in (exported[0], Path(place.root)))
    assert [one[at] for at in range(len(one))] == [many[at] for at in range(len(many))]
    one.close()
    many.close()


def test_other_splits_than_train_keep_their_masks_beside_them(built_run, place):
    report = export("lmdb", built_run, place, split="val")
    root = Path(place.root)
    dataset = opened(root, report.rows["records of val"], split="val")
    for at in range(len(dataset)):
        record = dataset[at]
        assert (root / "masks/refcoco" / f"{record['seg_id']}.png").read_bytes() == record["mask"]
    dataset.close()


def test_without_its_package_the_format_says_what_to_install(built_run, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ConfigError, match=r"pip install 'pseudoris\[lmdb\]'"):
        export("lmdb", built_run, place)
    assert not Path(place.root).exists()


def test_a_file_that_does_not_read_back_never_gets_its_name(built_run, place, monkeypatch):
    real = cris._fill

    def forgetting(path, records):
        real(path, ({**record, "sents": record["sents"][:1], "num_sents": 1} for record in records))

    monkeypatch.setattr(cris, "_fill", forgetting)
    with pytest.raises(TransientError, match="reads back as"):
        export("lmdb", built_run, place)
    assert set(stored(place.root)) == {"_export.json"}


def test_a_wrong_length_is_told(built_run, place, monkeypatch):
    real = cris._fill

    def miscounting(path, records):
        real(path, records)
        with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as writing:
            keys = pickle.loads(writing.get(b"__keys__"))
            writing.put(b"__keys__", pickle.dumps(keys[:-1]))
            writing.put(b"__len__", pickle.dumps(len(keys) - 1))

    monkeypatch.setattr(cris, "_fill", miscounting)
    with pytest.raises(TransientError, match="__len__ is"):
        export("lmdb", built_run, place)


def test_a_copy_that_differs_is_told(built_run, place, monkeypatch):
    real = RunLocation.replace_by

    def damaged(self, path, local):
        real(self, path, local)
        self.replace(path, self.read_bytes(path) + b"x")

    monkeypatch.setattr(RunLocation, "replace_by", damaged)
    with pytest.raises(TransientError, match="differs from the file that was sent"):
        export("lmdb", built_run, place)


def test_a_disk_that_does_not_take_it_is_told(built_run, place, monkeypatch):
    # As with a full disk: LMDB's own kind of error, from the midst of its work.
    monkeypatch.setattr(cris, "_MAP_BYTES", 12_288)
    with pytest.raises(ConfigError, match=r"An LMDB cannot be written in .*Free space"):
        export("lmdb", built_run, place)
    assert not stored(place.root)

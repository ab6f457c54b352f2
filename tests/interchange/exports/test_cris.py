"""What the tools of CRIS and ETRIS find on disk: records, mask files, the length that their code must be told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pseudoris.store.location import RunLocation
from tests.builders.memory import TRIES, least_peak_bytes
from tests.interchange.exports.builders import build_run, export, jpeg
from tests.interchange.exports.readers_cris import folder2records


@pytest.fixture(scope="module")
def exported(built_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("cris") / "datasets"
    return root, export("cris", built_run, RunLocation.open(str(root)))


def records_of(root: Path, dataset: str = "refcoco", split: str = "train") -> list[dict]:
    return json.loads((root / "anns" / dataset / f"{split}.json").read_text())


def test_trap_masks_are_of_one_channel_of_0_and_255_and_of_the_images_size(exported):
    root, _ = exported
    for record in records_of(root):
        with Image.open(root / "masks/refcoco" / f"{record['segment_id']}.png") as mask:
            with Image.open(root / "images/train2014" / record["img_name"]) as image:
                assert mask.size == image.size
            assert mask.mode == "L"
            assert set(np.unique(np.asarray(mask))) == {0, 255}
            ys, xs = np.nonzero(np.asarray(mask))
        assert record["bbox"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_trap_segment_and_sentence_ids_are_unique_and_beside_those_of_the_human_data(exported):
    records = records_of(exported[0])
    segments = [record["segment_id"] for record in records]
    sentences = [sentence["sent_id"] for record in records for sentence in record["sentences"]]
    assert (len(set(segments)), len(set(sentences))) == (len(segments), len(sentences))
    # Human masks lie in the same folder, under their ref_ids; RefCOCO, RefCOCO+ and RefCOCOg have below 150,000.
    assert min(segments) > 150_000


def test_trap_the_hard_coded_length_is_printed_as_the_table_of_the_trainer_wants_it(exported):
    root, report = exported
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cris", "lmdb"])
def test_memory_follows_the_shard_and_not_the_run(name, tmp_path):
    def peak_bytes(num_images: int) -> int:
        # What follows the end of a JPEG is nobody's pixels.
        large = jpeg() + bytes(100_000)
        pictures = tuple((f"{number}.jpg", large, (("red one",), ("blue one",))) for number in range(num_images))
        run = build_run(RunLocation.open(str(tmp_path / f"run-{num_images}")), pictures, per_shard=10)
        # What a first export loads stays.
        export(name, run, RunLocation.open(str(tmp_path / "warm")), is_overwriting=True)
        places = [RunLocation.open(str(tmp_path / f"export-{num_images}-{number}")) for number in range(TRIES)]
        return least_peak_bytes(lambda number: export(name, run, places[number]))

    # Both have as many files on their way as may be. Their images are 3 MB apart.
    small, large = peak_bytes(40), peak_bytes(70)
    assert large < small + 1_000_000

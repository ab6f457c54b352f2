"""The dataset's benchmark compares all sides before it times them."""

from __future__ import annotations

import json

import pytest

from benchmarks import dataset
from benchmarks.dataset_inputs import DataSize, write_all

SIZE = DataSize(4, 2, shard_images=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_all(folder, SIZE, None)
    return folder


def test_all_sides_give_equal_samples_and_a_run_is_read_in_fewer_bytes(folder):
    looks = {side: dataset.look(side, folder) for side in dataset.SIDES}
    assert len({(each["digest"], each["samples"]) for each in looks.values()}) == 1
    assert looks["stream"]["samples"] == 8
    assert looks["stream"]["bytes_read"] < looks["files"]["bytes_read"] < looks["lmdb"]["bytes_read"] * 1.1


def test_sides_that_differ_are_not_timed(folder, monkeypatch):
    answers = iter("abcd")
    monkeypatch.setattr(dataset, "in_process", lambda *arguments: {"digest": next(answers), "samples": 8})
    with pytest.raises(ValueError, match="the sides give other samples"):
        dataset.measure(folder, workers=[1], repeats=1)


@pytest.mark.long
def test_the_command_line_writes_a_row_a_side_and_number_of_workers(tmp_path):
    path = tmp_path / "rows.json"
    given = ["--samples", "8", "--masks", "2", "--workers", "1", "--repeats", "1", "--json", str(path)]
    dataset.main(given)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [row["side"] for row in rows] == list(dataset.SIDES)
    assert all(row["samples_per_s"] > 0 and row["masks_per_image"] == 2 for row in rows)

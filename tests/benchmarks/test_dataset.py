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


@pytest.mark.parametrize("side", dataset.SIDES)
def test_an_epoch_is_all_samples(folder, side):
    epoch = dataset.run_epoch(side, folder, 0)
    assert epoch["samples"] == 8
    assert epoch["seconds"] > 0
    assert epoch["peak_rss_bytes"] > 2**26


def test_sides_that_differ_are_not_timed(folder, monkeypatch):
    answers = iter("abcd")
    monkeypatch.setattr(dataset, "_in_process", lambda *arguments: {"digest": next(answers), "samples": 8})
    with pytest.raises(ValueError, match="the sides give other samples"):
        dataset.measure(folder, workers=[1], repeats=1)


def test_a_row_holds_the_median_and_the_highest_peaks(folder, monkeypatch):
    def answer(work, side, folder, *workers):
        if work is dataset.look:
            return {"digest": "same", "samples": 8, "bytes_read": 100}
        seconds = next(taken)
        return {
            "samples": 8,
            "seconds": seconds,
            "cpu_seconds": seconds / 2,
            "peak_rss_bytes": 5,
            "worker_peak_rss_bytes": int(10 * seconds),
        }

    taken = iter([1.0, 1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(dataset, "_in_process", answer)
    rows = dataset.measure(folder, workers=[1], repeats=3)
    assert [row["side"] for row in rows] == list(dataset.SIDES)
    assert (rows[0]["samples_per_s"], rows[0]["cpu_ms_per_sample"]) == (4.0, 125.0)
    assert rows[0]["worker_peak_rss_bytes"] == 40


@pytest.mark.long
def test_the_command_line_writes_a_row_a_side_and_number_of_workers(tmp_path):
    path = tmp_path / "rows.json"
    given = ["--samples", "8", "--masks", "2", "--workers", "1", "--repeats", "1", "--json", str(path)]
    dataset.main(given)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [row["side"] for row in rows] == list(dataset.SIDES)
    assert all(row["samples_per_s"] > 0 and row["masks_per_image"] == 2 for row in rows)


def test_a_side_that_fails_in_its_process_ends_the_benchmark(tmp_path):
    with pytest.raises(RuntimeError, match=r"look\('files', .*\) failed"):
        dataset._in_process(dataset.look, "files", tmp_path)

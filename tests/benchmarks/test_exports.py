"""The benchmark of exports: what it prints of two sizes, and a kill that it can see."""

import json

import pytest

from benchmarks import exports


@pytest.mark.long
def test_a_table_has_both_sizes_and_the_growth(tmp_path, capsys):
    file = tmp_path / "rows.json"
    exports.main(["--images", "3", "5", "--formats", "odvg", "--to", str(tmp_path), "--json", str(file)])
    rows = json.loads(file.read_text())
    assert [(row["format"], row["images"]) for row in rows] == [("odvg", 3), ("odvg", 5)]
    assert all(row["peak_bytes"] >= row["imported_bytes"] > 0 for row in rows)
    assert "odvg" in capsys.readouterr().out
    assert exports._growth({"images": 10, "peak_bytes": 100}, {"images": 20, "peak_bytes": 400}) == 30.0


@pytest.mark.long
def test_a_killed_export_has_left_objects_and_ends_equal(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "")
    exports.write_run(tmp_path / "run", 300)
    found = exports.measure_killed(tmp_path / "run", "odvg")
    # Images, the lines, the description and the record.
    assert found["objects"] == 300 + 3
    assert 0 < found["objects_at_kill"] < found["objects"]

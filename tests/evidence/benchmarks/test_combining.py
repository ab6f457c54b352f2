"""The benchmark of `combine` combines all of its two runs, with a split, and counts the copies that it made."""

from __future__ import annotations

import json

import pytest

from evidence.benchmarks.combining import main


@pytest.mark.slow
@pytest.mark.long
def test_its_cases_are_of_all_images_with_splits_and_copies(tmp_path):
    main(["--images", "400", "--shard-images", "64", "--folder", str(tmp_path), "--json", str(tmp_path / "x.json")])
    combined, counted, close = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert "20,000 expressions" in combined["note"]
    assert "'val'" in combined["note"]
    for row in (combined, counted):
        assert row["note"].endswith("4 byte for byte, 4 near copies")
    assert close["note"].endswith("near copies of 80")

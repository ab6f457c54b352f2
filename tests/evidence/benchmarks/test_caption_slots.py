"""The benchmark of the slots of captions, on a few images: it ends, and slots are filled as they should be."""

import json

from evidence.benchmarks.caption_slots import main


def test_slots_compute_little_more_pairs_and_steps_than_captions_need(tmp_path):
    main(["--gib", "2", "--images", "4", "--json", str(tmp_path / "found.json")])
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert 1 <= found["pairs"] <= 1.25
    assert 1 <= found["steps"] <= 1.3

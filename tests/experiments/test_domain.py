"""The record of how well a preset's score of the domain tells: what is promised holds in it."""

from __future__ import annotations

import json
from pathlib import Path

RECORD = json.loads((Path(__file__).parents[2] / "experiments/results/domain.json").read_text(encoding="utf-8"))


def test_of_every_world_nearly_all_scenes_pass_and_photographs_do_not():
    assert set(RECORD["worlds"]) >= {"default", "second", "shifted", "crowded"}
    for world in RECORD["worlds"].values():
        assert world["scenes"] >= 3_000
        assert world["inside"] >= 0.999 * world["scenes"]
    assert RECORD["photographs"]["images"] == 33
    assert RECORD["photographs"]["outside"] >= 32

"""The photographs through the composer, with captions from a file: sizes, English and arithmetic, not accuracy."""

from __future__ import annotations

import pytest

from tests.builders.command import pseudoris_here
from tests.photographs.judge import absences, composed, tally
from tests.photographs.told import PHOTOS, settings, write_inputs

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the test photographs are absent: {PHOTOS.name} beside the clone"),
]


def test_what_is_composed_of_told_captions_is_true_of_the_instances(ray_session, stub_engines, tmp_path):
    write_inputs(tmp_path)
    words = ("--preset", "base-composed", *settings(tmp_path))
    shown = pseudoris_here("annotate", str(PHOTOS), str(tmp_path / "out"), *words)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    rows, found = composed(tmp_path / "out")
    assert sum(len(place.things) for place in found.values()) == 246
    counted = tally(rows, found)
    print(counted)
    right, wrong = ({kind: n for (kind, is_right), n in counted.items() if is_right is way} for way in (True, False))
    assert wrong.get("none", 0) <= 0.02 * right["none"]
    of_one = ("attribute", "position", "relation", "group")
    said = sum(right.get(kind, 0) for kind in of_one)
    assert said >= 100
    assert sum(wrong.get(kind, 0) for kind in of_one) <= 0.03 * said
    num_named, num_there = absences(rows, found)
    print(num_named, num_there)
    assert num_there <= 0.02 * num_named
    assert pseudoris_here("verify", str(tmp_path / "out")).returncode == 0

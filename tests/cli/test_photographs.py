"""Real photographs go through the embedded models: poor words, sound tables."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.builders.command import OPTIONS, pseudoris_here

PHOTOS = Path(__file__).parents[3] / "shared" / "assets" / "photos"

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the test photographs are absent: {PHOTOS.name} beside the clone"),
]


@pytest.mark.parametrize("num_photos", [1, pytest.param(3, marks=pytest.mark.long)])
def test_photographs_are_annotated_in_their_own_size_and_verify(ray_session, tmp_path, num_photos):
    out = tmp_path / "out"
    # A coarse grid: what counts is that real files get through, not how many masks they have.
    coarse = ("--limit", str(num_photos), "--set", "masks.points_per_side=3")
    shown = pseudoris_here("annotate", "--preset=tiny", str(PHOTOS), str(out), *OPTIONS, *coarse)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    listed = json.loads((PHOTOS / "instances.json").read_text(encoding="utf-8"))["images"]
    sizes = {image["file_name"]: (image["height"], image["width"]) for image in listed}
    rows = ds.dataset(out / "images").to_table().to_pylist()
    assert len(rows) == num_photos
    assert all((row["height"], row["width"]) == sizes[row["key"]] for row in rows)
    assert {row["status"] for row in rows} <= {"annotated", "empty"}
    assert pseudoris_here("verify", str(out)).returncode == 0
    for page in (shown.stdout, pseudoris_here("stats", str(out)).stdout, (out / "DATACARD.md").read_text()):
        assert "The preset tiny knows drawn scenes alone" in " ".join(page.split())

"""A dataset of the Hub annotated by the command itself: its commit in the run, its bytes, and no token anywhere."""

from __future__ import annotations

import pyarrow.dataset as ds
import pytest

from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from tests.builders.command import pseudoris
from tests.builders.hub import TOKEN, serving_hub
from tests.builders.images import png

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]


def test_a_private_dataset_is_annotated_and_resumed_at_the_commit_of_the_plan(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with serving_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        dataset = hub.add("me/photos", {f"{n}.png": png(96, 96, seed=n) for n in range(3)}, is_private=True)
        planned = dataset.sha()
        command = ("annotate", "--preset=tiny", "hf://datasets/me/photos", str(out), "--address", "local")
        first = pseudoris(*command)
        assert first.returncode == 0, first.stderr
        images = ds.dataset(out / "images").to_table(columns=["key", "status"]).to_pylist()
        assert sorted(row["key"] for row in images) == ["0.png", "1.png", "2.png"]
        assert {row["status"] for row in images} <= {"annotated", "empty"}
        assert require_header(RunLocation.open(str(out))).source == f"hf://datasets/me/photos@{planned}"
        hub.add("me/photos", {"0.png": png(96, 96, seed=9)})
        again = pseudoris(*command)
        assert again.returncode == 0, again.stderr
        later = pseudoris("annotate", "--preset=tiny", "hf://datasets/me/photos@main", *command[2:])
        assert later.returncode == 2
        assert f"planned from SOURCE 'hf://datasets/me/photos@{planned}', but SOURCE is" in later.stderr
        printed = "".join(each.stdout + each.stderr for each in (first, again, later))
    held = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert TOKEN not in printed
    assert TOKEN.encode() not in held

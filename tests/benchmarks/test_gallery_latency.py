"""The gallery's benchmark drives the page that the command writes."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from benchmarks import gallery_latency

ROOT = Path(__file__).parents[2]


def test_a_gallery_holds_as_many_expressions_as_asked_for_or_a_few_more():
    built = gallery_latency.build_gallery(300)
    images = list(built.images)

    assert built.num_images == len(images) == 3
    assert sum(len(image.expressions) for image in images) == built.summary.expressions == 375


@pytest.mark.browser
def test_the_command_line_times_every_action(tmp_path):
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        message = "no chromium on the PATH: install it to run the browser tests"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    path = tmp_path / "rows.json"
    gallery_latency.main(["--expressions", "250", "--repeats", "2", "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))

    assert [row["case"].partition(",")[0] for row in rows] == ["load", *gallery_latency.ACTIONS]
    assert all(0 < row["ours_s"] < 30 for row in rows)


@pytest.mark.browser
def test_what_is_published_was_measured_and_answers_at_once():
    rows = json.loads((ROOT / "benchmarks" / "results" / "gallery.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "records" / "performance.md").read_text(encoding="utf-8")

    assert len(rows) == 2 * (1 + len(gallery_latency.ACTIONS))
    for row in rows:
        name = row["case"].partition(",")[0]
        (line,) = re.findall(rf"^\| {re.escape(name)} \|.*$", page, re.MULTILINE)
        assert f"| {1000 * row['ours_s']:.0f} ms (" in line
        assert name == "load" or row["ours_s"] < 0.1

"""A figure of a run has one name, one meaning and one value, whichever command or page tells it."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from pseudoris.cli.summaries import summary_view
from pseudoris.files.location import RunLocation
from pseudoris.pipeline.run_contract import RunSummary
from pseudoris.store.reports.data_card import CARD_NAME, write_datacard
from pseudoris.store.reports.run_status import run_status
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.command import invoke

VERSION = Path(__file__).parents[1] / "versions" / "0.6.0"


def shown(view: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200, markup=False)
    console.print(view)
    return console.file.getvalue()


@pytest.mark.slow
def test_every_door_tells_the_same_speed_and_the_same_expressions_per_mask(tmp_path):
    out = tmp_path / "run"
    shutil.copytree(VERSION / "finished", out)
    invoke("gallery", out, "--source", VERSION / "images")
    location = RunLocation.open(str(out))
    write_datacard(location)
    found = run_status(location)
    summary = RunSummary(str(out), found, 7, 4, 0, 7, 60.0, {"expressions": "x"}, speed=found.rates.text)
    doors = {
        "status": invoke("status", out).output,
        "stats": invoke("stats", out).output,
        "annotate": shown(summary_view(summary)),
        "gallery": (out / "gallery" / "index.html").read_text("utf-8"),
        "quality": (out / "gallery" / "quality.html").read_text("utf-8"),
        "card": location.read_bytes(CARD_NAME).decode(),
    }
    run = OpenRun.at(location)
    kept, num_masks = sum(run.table("expressions")["kept"].to_pylist()), run.table("masks").num_rows
    either = r"([\d.]+) expressions? per mask|expressions per mask \| ([\d.]+)"
    said = {door: re.findall(either, text) for door, text in doors.items()}
    per_mask = {door: {first or second for first, second in each} for door, each in said.items()}
    assert per_mask == {key: {f"{kept / num_masks:.2f}"} for key in doors}
    speeds = {door: re.findall(r"([\d.]+) images/s overall", doors[door]) for door in ("status", "annotate", "quality")}
    assert speeds == {key: [f"{found.rates.overall:.3g}"] for key in speeds}

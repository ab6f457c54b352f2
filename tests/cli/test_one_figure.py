"""A figure of a run has one name, one meaning and one value, whichever command or page tells it."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from pseudoris.cli.demo import PRESETS
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


def figures(out: Path) -> tuple[str, str]:
    """Return kept expressions, and how many there are per mask, as the tables of a run have them."""
    run = OpenRun.at(RunLocation.open(str(out)))
    kept = sum(run.table("expressions")["kept"].to_pylist())
    return f"{kept:,}", f"{kept / run.table('masks').num_rows:.2f}"


def told(text: str) -> tuple[set[str], set[str]]:
    """Return what a door says of the same."""
    kept = re.findall(r"kept expressions +(?:\| )?([\d,]+)|>kept <span>[^<]*</span></dt><dd>([\d,]+)<", text)
    per_mask = re.findall(r"([\d.]+) expressions? per mask|expressions per mask \| ([\d.]+)", text)
    return tuple({first or second for first, second in each} for each in (kept, per_mask))


@pytest.mark.slow
def test_every_door_tells_the_same_speed_and_the_same_kept_expressions(tmp_path):
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
        "combine": invoke("combine", out, tmp_path / "combined").output,
    }
    kept, per_mask = figures(out)
    assert {door: told(text) for door, text in doors.items()} == {door: ({kept}, {per_mask}) for door in doors}
    speeds = {door: re.findall(r"([\d.]+) images/s overall", doors[door]) for door in ("status", "annotate", "quality")}
    assert speeds == {key: [f"{found.rates.overall:.3g}"] for key in speeds}

    said = invoke("refilter", out, tmp_path / "stricter", "--tau", "0.1").output
    kept, per_mask = figures(tmp_path / "stricter")
    assert told(said) == ({kept}, {per_mask})


@pytest.mark.ray
def test_the_demo_tells_the_figures_of_its_two_runs(tiny_run):
    kept, per_mask = zip(*(figures((tiny_run.source.parent / preset).resolve()) for preset in PRESETS), strict=True)
    printed = tiny_run.printed.stdout
    assert tuple(re.findall(r"kept expressions +([\d,]+)", printed)) == kept
    assert re.search(r"^expressions per mask +([\d.]+) +([\d.]+)", printed, re.MULTILINE).groups() == per_mask

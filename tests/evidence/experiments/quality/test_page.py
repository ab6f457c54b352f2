"""Parts are run once, and their results make the page, its data, its plots, and the texts above and below them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner

from evidence.experiments.quality import __main__ as command
from evidence.experiments.quality import page
from evidence.experiments.quality.ablation import order
from evidence.experiments.quality.markdown_cells import plot_name
from evidence.experiments.quality.parts import RECORDS, Options, Part, load_parts, read_record, read_whole, record_path
from evidence.experiments.quality.svg_chart import Axis, Line, line_chart

CALLS = []
DOCS = Path(__file__).parents[4] / "docs" / "records"


def part(name, value=1.0):
    def run(options):
        CALLS.append(name)
        return {"value": value, "quick": options.is_quick}

    return Part(
        name,
        run,
        lambda result: f"## {name}\n\nmeasured {result['value']}",
        lambda result: {"line": line_chart(name, Axis("x", 0, 1), Axis("y", 0, 1), [Line("a", [(0.0, 1.0)])])},
        lambda result: {f"{name}_top": result["value"]},
    )


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    """The command over two small parts, with its kept results and docs in a folder of the test."""
    CALLS.clear()
    monkeypatch.setattr(command, "load_parts", lambda: [part("first"), part("second")])
    monkeypatch.setattr(command, "RECORDS", tmp_path / "results")
    monkeypatch.setattr(command, "DOCS", tmp_path / "docs")
    app = typer.Typer()
    app.command()(command.main)

    def call(*arguments):
        return CliRunner().invoke(app, ["--out", str(tmp_path / "out"), *arguments])

    return call


def test_all_parts_run_once_and_an_interrupted_run_goes_on(invoke, tmp_path):
    assert invoke("--only", "second").exit_code == 0
    outcome = invoke()
    assert outcome.exit_code == 0, outcome.output
    assert CALLS == ["second", "first"]
    text = (tmp_path / "docs" / "quality.md").read_text()
    assert text.index("## first") < text.index("## second")
    assert "## What it takes" in (tmp_path / "docs" / "appendix" / "quality.md").read_text()
    assert ["first" in outcome.output, "second" in outcome.output] == [True, True]


def test_the_data_holds_headlines_and_times_and_links_every_record(invoke, tmp_path):
    invoke()
    data = json.loads((tmp_path / "docs" / "quality.json").read_text())
    assert data["first_top"] == 1.0
    assert data["records"]["second"] == "../results/quality-second.json"
    assert json.loads((tmp_path / "docs" / data["records"]["second"]).read_text())["result"]["value"] == 1.0
    assert data["seconds"]["first"].keys() == {"wall", "cpu"}
    ElementTree.fromstring((tmp_path / "docs" / plot_name("first", "line")).read_text())


def test_a_quick_run_leaves_docs_and_kept_results_alone(invoke, tmp_path):
    assert invoke("--quick").exit_code == 0
    assert not (tmp_path / "docs").exists()
    assert not (tmp_path / "results").exists()
    assert "These are of `--quick`" in (tmp_path / "out" / "appendix" / "quality.md").read_text()
    records = json.loads((tmp_path / "out" / "quality.json").read_text())["records"]
    assert records == {"first": "quality-first.json", "second": "quality-second.json"}
    # What was quick is no whole result.
    invoke()
    assert CALLS == ["first", "second"] * 2
    assert "`--quick`." not in (tmp_path / "docs" / "appendix" / "quality.md").read_text()


def test_a_record_of_other_settings_is_marked_and_then_measured_anew(invoke, monkeypatch, tmp_path):
    invoke()
    assert page.STALE not in (tmp_path / "docs" / "quality.md").read_text()
    changed = replace(part("first"), settings=lambda options: {"towers": "others"})
    monkeypatch.setattr(command, "load_parts", lambda: [changed, part("second")])
    invoke("--report-only")
    assert CALLS == ["first", "second"]
    text = (tmp_path / "docs" / "quality.md").read_text()
    assert text.count(page.STALE) == 1
    assert text.index("## first") < text.index(page.STALE) < text.index("## second")
    invoke()
    assert CALLS == ["first", "second", "first"]
    assert page.STALE not in (tmp_path / "docs" / "quality.md").read_text()


def test_an_unknown_part_is_refused_with_those_that_there_are(invoke):
    outcome = invoke("--only", "third")
    assert outcome.exit_code == 2
    assert "first, second" in outcome.output
    assert CALLS == []


def test_the_page_and_its_data_are_what_the_records_say():
    records = [(each, read_record(record_path(RECORDS, each.name))) for each in load_parts()]
    known = [(each, record) for each, record in records if record is not None]
    whole = read_whole(RECORDS)
    assert page.markdown(known, Options(RECORDS)) == (DOCS / "quality.md").read_text()
    assert page.appendix(known, Options(RECORDS), whole) == (DOCS / "appendix" / "quality.md").read_text()
    data = json.loads((DOCS / "quality.json").read_text())
    assert page.tree(known, data["records"], whole) == data
    assert [(DOCS / link).resolve() for link in data["records"].values()] == [
        record_path(RECORDS, each.name) for each, _ in known
    ]
    for each, record in known:
        for name, svg in each.plots(record.result).items():
            assert svg == (DOCS / plot_name(each.name, name)).read_text()


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.2, "holds"), (-0.2, -0.01, "is reversed"), (-0.1, 0.1, "not told apart"), (None, None, "–")],
)
def test_an_order_holds_where_its_interval_is_clear_of_zero(low, high, said):
    assert order({"value": 0.0, "low": low, "high": high}) == said

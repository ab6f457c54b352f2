"""The page of a table, with our figures beside the published ones, and what each of its steps cost."""

from __future__ import annotations

import json

import pytest
import typer

from examples import results_table
from examples.results_table import PUBLISHED, Measured, as_markdown
from examples.step_log import StepLog, StepRecord, run_pseudoris

FIGURES = {"num_expressions": 1234} | {
    name: {"value": value, "low": low, "high": 0.5}
    for name, value, low in (("oiou", 0.25, 0.2), ("miou", 0.5, 0.45), ("p@0.5", None, None))
}
FIGURES |= {f"p@0.{at}": {"value": 0.1} for at in (6, 7, 8, 9)}


def test_published_figures_stand_beside_ours_and_hours_below():
    lines = [Measured("main", "ours", split, FIGURES) for split in ("refcoco/val", "own/val")]
    page = as_markdown("A table", "main", lines, [StepRecord("annotate", 7200, 5 * 10**9, True)], notes=["Read this."])
    assert page.startswith("# A table\n\nRead this.\n")
    own = "1,234 | 25.00 [20.00, 50.00] | 50.00 [45.00, 50.00] | – | 10.00 | 10.00 | 10.00 | 10.00"
    assert f"| ours | refcoco/val | {own} | 46.76 | – |" in page
    assert f"| ours | own/val | {own} | – | – |" in page
    assert "| annotate | 2.00 | 5.0 |" in page


def test_a_published_row_stands_beside_its_own_row_alone_in_the_papers_order(monkeypatch, tmp_path):
    by_row = {
        "oiou": {"a/val": {"main": 7, "other": 20, "alone": 30}},
        "p@0.3": {"a/val": {"main": 8, "other": 21, "alone": 31}},
    }
    published = [
        {"table": "t", "name": "P", "source": "s", "titles": {"alone": "Alone", "main": "Main"}, "figures": by_row},
        {"table": "t", "name": "Q", "source": "s", "figures": {"miou": {"a/val": 40}}},
        {"table": "u", "name": "R", "source": "s", "figures": {"miou": {"a/val": 50}}},
    ]
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"tables": published}))
    monkeypatch.setattr(results_table, "PUBLISHED", path)
    sized = {**FIGURES, "parameters": {"value": 20.74}}
    lines = [Measured("third", "third", "a/val", FIGURES), Measured("main", "main", "a/val", sized)]
    page = as_markdown("A", "t", lines, [], columns=("miou", "parameters"))
    assert "| row | split | expressions | mIoU | trained parameters, M | P, oIoU | P, P@0.3 | Q, mIoU |" in page
    assert [line for line in page.splitlines() if "| a/val |" in line] == [
        # Published, and not measured.
        "| Alone | a/val | – | – | – | 30.00 | 31.00 | 40.00 |",
        "| main | a/val | 1,234 | 50.00 [45.00, 50.00] | 20.74 | 7.00 | 8.00 | 40.00 |",
        "| third | a/val | 1,234 | 50.00 [45.00, 50.00] | – | – | – | 40.00 |",
    ]


@pytest.mark.parametrize("published", json.loads(PUBLISHED.read_text(encoding="utf-8"))["tables"])
def test_a_published_table_has_its_source_and_percent(published):
    assert published["source"]
    figures = [figure for splits in published["figures"].values() for figure in splits.values()]
    values = [value for each in figures for value in (each.values() if isinstance(each, dict) else [each])]
    assert values
    assert "titles" not in published or all(isinstance(each, dict) for each in figures)
    assert all(value is None or 0 < value < 100 for value in values)


def test_a_step_that_fails_keeps_its_seconds_and_is_not_finished(tmp_path):
    log = StepLog(tmp_path)
    with pytest.raises(ValueError, match="broken"), log.measured("annotate"):
        raise ValueError("broken")
    assert not log.read("annotate").is_finished
    assert log.read("annotate").peak_bytes > 0
    with log.measured("annotate"):
        pass
    assert [(each.name, each.is_finished) for each in StepLog(tmp_path).records()] == [("annotate", True)]


def test_a_finished_step_is_not_done_again(tmp_path, capsys):
    done = []
    for _ in range(2):
        StepLog(tmp_path).step("annotate", lambda: done.append(1))
    assert done == [1]
    assert capsys.readouterr().err.splitlines() == ["annotate", "annotate: finished before"]


@pytest.mark.slow
def test_a_command_that_fails_ends_the_example_with_its_exit_code():
    with pytest.raises(typer.Exit) as ended:
        run_pseudoris("weights", "get", "no-such-preset")
    assert ended.value.exit_code == 2

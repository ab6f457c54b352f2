"""`pseudoris audit`: what it prints and what it refuses; the figures are tested in tests/audit."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.verdict_file import VerdictFile
from pseudoris.audit.verdict_lines import VerdictLine
from pseudoris.cli.main import app
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from tests.builders.scored_runs import scored_run


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    scored_run(RunLocation.open(str(folder)))
    return str(folder)


def ran(*words):
    ended = CliRunner().invoke(app, ["audit", *map(str, words)], prog_name="pseudoris", env={"COLUMNS": "120"})
    if ended.exception and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended.output


def test_draw_says_which_questions_it_will_answer_how_precisely(out, tmp_path):
    printed = ran("draw", out, tmp_path / "audit", "-n", 60)
    assert "accuracy of the kept" in printed
    assert "missed objects an image" in printed
    assert "masks with a right expression" in printed
    assert AuditFolder.open(tmp_path / "audit").draw.run.location == out


def test_an_audit_is_a_local_folder_outside_the_run(out):
    with pytest.raises(ConfigError, match=r"'s3://b/audit' is a url. Give a local folder"):
        ran("draw", out, "s3://b/audit")
    with pytest.raises(ConfigError, match="is inside the run"):
        ran("draw", out, f"{out}/masks/audit")


def test_report_prints_figures_with_intervals_and_what_they_lack(out, tmp_path):
    ran("draw", out, tmp_path / "audit", "-n", 60)
    audit = AuditFolder.open(tmp_path / "audit")
    with VerdictFile.open(tmp_path / "elsewhere", "ana", audit.known) as file:
        for pair in audit.pairs["pair_id"].to_pylist():
            file.append(VerdictLine(pair=pair, verdict="right"))
    ran("add", tmp_path / "audit", tmp_path / "elsewhere" / "verdicts" / "ana.jsonl")
    printed = ran("report", tmp_path / "audit", "--plot", tmp_path / "plot.svg", "--out-run", out)
    assert "60 of 60 pairs judged" in printed
    assert re.search(r"accuracy of the kept +1\.000 +0\.9\d\d to 1\.000", printed)
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    figures = json.loads(ran("report", tmp_path / "audit", "--json"))
    assert figures["accuracy"]["value"]["high"] == 1
    assert figures["raters"] == {"ana": audit.pairs.num_rows}

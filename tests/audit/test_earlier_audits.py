"""An audit that was drawn and judged before blind clicks and planted pairs left: they are in its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pseudoris.audit.audit_folder import AuditFolder, add_file
from pseudoris.audit.figures import audit_figures

FOLDER = Path(__file__).parents[1] / "fixtures" / "audit_version_2"


def test_a_draw_of_version_2_keeps_its_figures_and_its_planted_pairs_count_for_nothing():
    audit = AuditFolder.open(FOLDER / "audit")
    # Written by the version that drew it, without the verdicts on planted pairs.
    known = json.loads((FOLDER / "figures.json").read_text())
    found = audit_figures(audit, audit.answers()).as_json()
    assert audit.draw.version == 2
    assert len(audit.known.pairs) == audit.pairs.num_rows + 3
    assert {name: value for name, value in found.items() if name != "raters"} == known


def test_a_file_with_blind_clicks_is_added(tmp_path):
    shutil.copytree(FOLDER / "audit", tmp_path / "audit", ignore=shutil.ignore_patterns("verdicts"))
    file = FOLDER / "audit" / "verdicts" / "ana.jsonl"
    assert '"click":[' in file.read_text()
    added = add_file(AuditFolder.open(tmp_path / "audit"), file)
    assert len(added.answers.verdicts) == 17

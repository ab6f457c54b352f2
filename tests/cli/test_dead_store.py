"""Commands that only read are told of a dead store at once: each opens its run in the way that checks it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.schemas.errors import TransientError
from pseudoris.store.location import RunLocation

OUT = "s3://bucket/run"


@pytest.mark.parametrize(
    "words",
    [
        ("status", OUT),
        ("status", OUT, "--watch"),
        ("verify", OUT),
        ("stats", OUT),
        ("parts", OUT),
        ("gallery", OUT),
        ("sample", OUT),
        ("evaluate", OUT, "--truth", "labels"),
        ("calibrate", OUT, "--to", "calibrated.yaml"),
        ("export", OUT, "exported", "--format", "coco"),
        ("train", "student", OUT, "--out", "trained"),
    ],
    ids=" ".join,
)
def test_a_command_that_reads_opens_its_run_to_read(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def refuse(out):
        raise TransientError(f"{out} does not answer")

    monkeypatch.setattr(RunLocation, "open_to_read", refuse)
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, TransientError), result.output

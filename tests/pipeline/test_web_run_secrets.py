"""Secrets of a web SOURCE, in its query and in where its server redirects to: a run repeats none of them."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest

from tests.builders.command import OPTIONS, pseudoris_here
from tests.builders.redirecting_host import redirecting_host
from tests.builders.runs import SMALL, STUBS

GIVEN, REDIRECTED = "hunter2", "swordfish"
SETTINGS = [
    word
    for each in (*STUBS, *SMALL, "source.allowed_query=[sig]", "source.format=webdataset")
    for word in ("--set", each)
]


@pytest.fixture
def web():
    """Return the class that answers, with its `url`."""
    with redirecting_host(REDIRECTED) as handler:
        yield handler


def holding(folder: Path, secret: str) -> list[str]:
    """Return the files below a folder that hold a secret."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_repeats_no_query_of_its_source_whatever_its_server_does(ray_session, web, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="pseudoris")
    url = f"{web.url}/set.tar?sig={GIVEN}"
    for number, (failure, after) in enumerate(((0, None), (403, 1), (0, 2), (503, 3))):
        web.served, web.failure, web.fails_after = itertools.count(), failure, after
        out = str(tmp_path / f"out{number}")
        words = (
            "annotate",
            "--preset",
            "tiny",
            url,
            out,
            *SETTINGS,
            "--set",
            "placement.storage.patience_s=2",
            *OPTIONS,
        )
        ended = pseudoris_here(*words)
        assert after is not None or ended.returncode == 0, ended.stderr
        for command in ("status", "stats", "verify", "gallery"):
            shown = pseudoris_here(command, out)
            ended.stdout += shown.stdout + shown.stderr
        for secret in (GIVEN, REDIRECTED):
            assert secret not in ended.stdout + ended.stderr + caplog.text
            assert holding(Path(ray_session), secret) == []
        assert holding(tmp_path, REDIRECTED) == []

"""What a terminal is sent: no control characters of strangers, only what its encoding has, and a run's progress."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from pseudoris.cli.console import SafeConsole
from pseudoris.cli.formats import facts_table, path_lines
from pseudoris.cli.main import main
from pseudoris.cli.progress import run_progress
from pseudoris.cli.summaries import summary_view
from pseudoris.files.location import RunLocation
from pseudoris.pipeline.run_contract import RunSummary
from pseudoris.schemas.run_records import PartRecord, Receipt, ShardCounts
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.runs.pending_work import Committed, Notice, Planned
from pseudoris.store.runs.receipts import RunTotals
from tests.builders.command import pseudoris_here
from tests.store.builders import commit, start_run
from tests.viewer.builders import annotated, write_run

HOSTILE = "a\x1b]0;owned\x07\x9b31m\u202egnp\u2066.\x7f"
# What Rich itself sends to a terminal: colours, and movements of the cursor.
OWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def in_terminal(*arguments: str, **environment: str) -> tuple[int, bytes]:
    """Run the command in a pseudo-terminal; return its exit code and what the terminal was sent."""
    master, slave = pty.openpty()
    search_path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "pseudoris", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": search_path, **environment},
    )
    os.close(slave)
    sent = b""
    while True:
        try:
            block = os.read(master, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not block:
            break
        sent += block
    os.close(master)
    return process.wait(), sent


def printed(encoding: str, *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process on streams of an encoding; return its exit code and what it printed."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    words = ["pseudoris", *arguments]
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", words), patch("signal.signal"):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.buffer.getvalue().decode(encoding), err.buffer.getvalue().decode(encoding)


@pytest.mark.slow
def test_annotate_shows_its_spinner_on_a_terminal_of_another_encoding(tmp_path):
    code, sent = in_terminal(
        "annotate", "--preset=tiny", str(tmp_path / "none"), str(tmp_path / "out"), PYTHONIOENCODING="latin-1"
    )
    assert code == 2, sent
    assert b"opening SOURCE and OUT" in sent
    assert b"does not exist" in sent
    assert b"UnicodeEncodeError" not in sent


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize("command", ["status", "stats", "verify", "sample", "doctor", "--help", "export --help"])
def test_every_command_prints_in_any_encoding(tmp_path, encoding, command):
    location = RunLocation.open(str(tmp_path / "写真 é"))
    commit(location, start_run(location, source="写真/„é“ – τ"), 0, 1, 2)
    words = command.split()
    arguments = () if "--help" in words or command == "doctor" else (location.root,)
    code, out, _ = printed(encoding, *words, *arguments)
    assert code == 0
    assert len(out) > 100


@pytest.mark.parametrize(
    "shown",
    [HOSTILE, Text(HOSTILE, "bold"), path_lines(HOSTILE, {HOSTILE: HOSTILE}), Progress, facts_table],
    ids=["text", "styled", "paths", "progress", "table"],
)
def test_no_console_passes_on_a_control_character(shown):
    console = SafeConsole(file=io.StringIO(), force_terminal=True, width=200)
    if shown is facts_table:
        shown = facts_table(HOSTILE)
        shown.add_row(HOSTILE, HOSTILE)
    if shown is Progress:
        with Progress(console=console) as progress:
            progress.add_task(HOSTILE)
    else:
        console.print(shown)
    text = OWN.sub("", console.file.getvalue())
    assert not FORBIDDEN.search(text)
    assert r"\x1b]0;owned" in text


@pytest.mark.parametrize("command", ["status", "stats", "verify", "sample", "sample --json", "stats --json"])
def test_a_hostile_run_does_not_steer_the_terminal(tmp_path, command):
    said = [(0, HOSTILE, 1.5, None)]
    location = write_run(tmp_path / "run", ("a.png", lambda entry: annotated(entry, 1, said)), source=HOSTILE)
    name, *options = command.split()
    shown = pseudoris_here(name, location.root, *options, code=0)
    assert not FORBIDDEN.search(shown.stdout + shown.stderr)


@pytest.mark.slow
def test_file_names_that_are_not_utf_8_are_refused_at_the_start_with_the_variable_to_set(tmp_path):
    (tmp_path / "写真").mkdir()
    broken = {"PYTHONUTF8": "0", "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}
    code, sent = in_terminal("status", str(tmp_path / "写真"), **broken)
    assert code == 2, sent
    assert b"the encoding of file names is 'ascii' here" in sent
    assert b"set PYTHONUTF8=1" in b" ".join(sent.split())


def terminal():
    return Console(file=io.StringIO(), width=200, force_terminal=True, markup=False, highlight=False, color_system=None)


def committed(shard, images, *, quarantined=0):
    part = PartRecord(name="p", rows=0, size_bytes=1, sha256="0" * 64)
    annotated = images - quarantined
    ones = dict.fromkeys(("masks", "expressions", "samples", "kept"), 1)
    counts = ShardCounts(images=images, annotated=annotated, empty=0, quarantined=quarantined, kept_lone=0, **ones)
    return Committed(Receipt(shard=shard, generation=0, parts=dict.fromkeys(SCHEMAS, part), counts=counts))


def test_the_bar_starts_at_what_is_committed_and_counts_quarantine():
    console = terminal()
    with run_progress(console) as on_event:
        on_event(Planned(num_images=10, num_images_done=4, num_shards=4, num_shards_done=1, actors={"fused": 2}))
        on_event(Notice("a path with [brackets]"))
        on_event(committed(1, 3, quarantined=2))
    printed = console.file.getvalue()
    for words in ("1 of 4 shards are already committed", "a path with [brackets]", "2 quarantined", "7/10"):
        assert words in printed


def test_without_a_terminal_plain_lines_say_each_tenth_of_the_images():
    console = Console(file=io.StringIO(), width=80)
    with run_progress(console) as on_event:
        on_event(Planned(num_images=100, num_images_done=5, num_shards=20, num_shards_done=1, actors={"fused": 2}))
        for shard, images in enumerate([4, 1, 5, 20]):
            on_event(committed(shard, images, quarantined=1 if shard == 2 else 0))
    assert console.file.getvalue().splitlines() == [
        "starting",
        "continuing: 1 of 20 shards are already committed",
        "annotating (2 actors): 5 of 100 images",
        "annotating: 10 of 100 images",
        "annotating, 1 quarantined: 35 of 100 images",
    ]


def test_rate_and_time_left_count_from_the_first_shard_though_two_land_together():
    console, now = terminal(), [1_000.0]
    with run_progress(console, clock=lambda: now[0]) as on_event:
        # Listing and planning take no part in the rate.
        now[0] += 500
        on_event(Planned(num_images=100, num_images_done=40, num_shards=10, num_shards_done=4, actors={"fused": 2}))
        now[0] += 20
        on_event(committed(4, 10))
        now[0] += 0.1
        on_event(committed(5, 10))
    # Of its last frame: 20 images in 20.1 seconds, and 40 to come.
    last = console.file.getvalue().rpartition("60/100")[2]
    assert all(words in last for words in ("1.0 images/s", "0:00:20", "0:00:40"))


def test_the_summary_names_reasons_tables_and_rate():
    counts = {"shards": 2, "images": 4, "annotated": 3, "quarantined": 1, "masks": 5, "samples": 220, "expressions": 60}
    totals = RunTotals(**counts, kept=20, kept_lone=7, reasons={"corrupt": 1})
    console = Console(file=io.StringIO(), width=200, markup=False)
    summary = RunSummary("out", totals, 4, 2, 0, 4, 2.0, {"masks": "out/masks/*.parquet"}, speed="2 images/s")
    console.print(summary_view(summary))
    text = console.file.getvalue()
    console.print(summary_view(replace(summary, num_images_now=0)))
    assert "nothing to do: the run was complete. --extend adds images" in console.file.getvalue()
    assert "4 of 4: 3 annotated, 0 empty, 1 quarantined" in text
    assert "20 of 60 candidates, 7 of them unfiltered (their mask is alone in its image)" in text
    assert all(words in text for words in ("220 drawn, 60 distinct", "2 images/s", "corrupt", "out/masks/*.parquet"))

"""`pseudoris combine`: makes one run of several, or of one, without a model. Called by `main`.

`store/sessions/combined_run` does the work.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pseudoris.cli import options
from pseudoris.cli.console import note, report, stdout
from pseudoris.cli.formats import add_clauses, add_written, facts_table, next_lines
from pseudoris.cli.options import argument, option
from pseudoris.cli.progress import write_with_bar
from pseudoris.files.location import RunLocation
from pseudoris.files.named_places import moved_places, named_runs
from pseudoris.store.runs.copied_pictures import LEFT_OUT_NAME, Unique
from pseudoris.store.runs.held_out_pictures import ROUNDING, TRAIN, HoldOut
from pseudoris.store.sessions.combined_run import CombineSummary
from pseudoris.store.sessions.combined_run import combine as combine_runs
from pseudoris.store.sessions.thread_executor import DEFAULT_THREADS


def combine(
    runs: Annotated[
        list[str],
        argument(
            "RUN...",
            "Runs, as folders or urls, or NAME=RUN. Of several, a key becomes <name>/<key>; a name is that of the "
            "folder, if none is given.",
        ),
    ],
    out: Annotated[str, argument("OUT", "Folder or url for the new run.")],
    unique: Annotated[
        Unique | None,
        option(
            "--unique",
            "Take one picture once: leave out those with the bytes of an earlier one, or also those similar to one by "
            "perceptual hash. Pictures are read where the tables have none.",
        ),
    ] = None,
    hold_out: Annotated[
        list[str] | None,
        option(
            "--hold-out",
            "Draw this share of the pictures as a split: train, val, test, testA or testB. Copies, tiles of a picture "
            "and what has a split stay together. The rest is train. Repeatable.",
            metavar="SPLIT=SHARE",
        ),
    ] = None,
    group: Annotated[
        str | None,
        option(
            "--group",
            "Draw as one also the pictures of a folder (`folder`), near copies (`similar`), or groups of a .parquet or "
            ".csv with the columns key and group.",
            metavar="folder|similar|FILE",
        ),
    ] = None,
    source: options.MovedSource = None,
    is_partial: Annotated[bool, option("--partial", "Take what is committed of runs that are not finished.")] = False,
    threads: options.ShardsAtOnce = DEFAULT_THREADS,
    allow_mixed: Annotated[
        bool, option("--allow-mixed", "Continue with other package versions than OUT began with.")
    ] = False,
    repair: options.Repair = False,
    plugins: options.Plugins = None,
) -> None:
    """Make one run of several, or of one. No model runs."""
    options.load_plugins(plugins)
    target = RunLocation.open(out)
    given = [(name, RunLocation.open(place)) for name, place in named_runs(runs)]
    drawn = HoldOut.parse(hold_out or (), group)
    write = partial(combine_runs, given, target, is_partial=is_partial, unique=unique, moved=moved_places(source))
    write = partial(write, hold_out=drawn, num_threads=threads, allow_mixed=allow_mixed, is_repair=repair)
    _print(out, write_with_bar(target, write, before="reading the runs", during="combining images"), drawn)


def _print(out: str, found: CombineSummary, drawn: HoldOut | None) -> None:
    table = facts_table(f"{out}: complete")
    for name, number in found.images.items():
        table.add_row(f"from {name}" if name else "from", f"{number:,} images")
    add_clauses(table, found.clauses)
    if found.num_left_out:
        table.add_row("left out", f"{found.num_left_out:,} images, listed in {LEFT_OUT_NAME}")
    if total := sum(found.splits.values()):
        shares = (f"{name or 'no split'} {num:,} ({num / total:.1%})" for name, num in found.splits.items())
        table.add_row("splits", ", ".join(shares))
    add_written(table, found)
    stdout.print(table, soft_wrap=True)
    asked = {TRAIN: 1 - sum(drawn.shares.values()), **drawn.shares} if drawn else {}
    if empty := [name for name, share in asked.items() if share > ROUNDING and not found.splits.get(name)]:
        due = ", ".join(f"{name} ({asked[name]:.2g} of {total:,} images)" for name in empty)
        why = "each picture or group is drawn for itself, and an image keeps the split that it has"
        report("warning", f"no image is in {due}: {why}. Ask for a larger share", "yellow")
    for line in found.notes:
        note(line)
    stdout.print(next_lines(out), soft_wrap=True)

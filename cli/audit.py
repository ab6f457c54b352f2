"""`pseudoris audit`: draws a sample of a run for a person to judge, and reports the run's accuracy with an interval.

Called by `main`. The room `audit` draws, stores and computes; this module only asks it and prints. AUDIT is a local
folder outside of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pseudoris.cli import options
from pseudoris.cli.console import echo_json, note, report, stdout
from pseudoris.cli.formats import columns_table, command, facts_table, path_lines
from pseudoris.cli.options import argument, option
from pseudoris.cli.progress import bar
from pseudoris.files.location import RunLocation
from pseudoris.files.named_places import moved_places
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.uris import writable
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import OpenRun

if TYPE_CHECKING:
    from pseudoris.audit.audit_folder import RaterAnswers

_SHOWN_MISSING = 3

app = typer.Typer(no_args_is_help=True, help="Judge a sample of a run, and learn how accurate the run is.")


@app.command("draw")
def draw(
    out: options.Out,
    audit: options.Audit,
    pairs: Annotated[int, option("-n", "--pairs", "Number of pairs to judge.", min=2)] = 200,
    seed: Annotated[int, option("The same seed gives the same pairs.", min=0)] = 0,
    unkept: Annotated[
        float | None,
        option(
            "Share of pairs that the run does not keep, to judge other keep rules. Default: 0.15; 0 if the run keeps "
            "composed expressions.",
            min=0,
            max=1,
        ),
    ] = None,
    images: Annotated[
        int | None, option("Number of images to search for missed objects. Default: a fifth of -n, at least 20.", min=2)
    ] = None,
    source: options.MovedSource = None,
) -> None:
    """Draw a sample of pairs and images to judge."""
    from pseudoris.audit.draw import DrawOptions, draw_audit
    from pseudoris.audit.draw_files import undrawn_strata
    from pseudoris.audit.figures import expected_precision

    chosen = DrawOptions(num_pairs=pairs, seed=seed, unkept_share=unkept, num_images=images)
    folder = options.local_folder(audit)
    location = RunLocation.open_to_read(out)
    run = OpenRun.at(location)
    if location.holds(RunLocation.open(str(folder.absolute()))):
        raise ConfigError(f"AUDIT {audit!r} is inside the run. Choose a folder outside it.")
    planned = PlannedImages(location, run.header, source=moved_places(source))
    with bar("reading shards") as show:
        found = draw_audit(run, folder, chosen, planned=planned, on_shard=show)
    record = found.record
    table = facts_table(f"{audit}: drawn")
    population, drawn = record.population, sum(stratum.num_drawn for stratum in record.strata)
    kept = sum(stratum.num_drawn for stratum in record.strata if stratum.is_kept)
    table.add_row("run", f"{record.run.location}: {population.pairs:,} pairs, {population.kept:,} kept")
    table.add_row("pairs to judge", f"{drawn:,}, of them {kept:,} kept, in {len(record.strata)} strata")
    table.add_row("besides", f"up to {found.num_follow_ups:,} follow-ups, only after a verdict that is not right")
    num_images = sum(stratum.num_drawn for stratum in record.image_strata)
    table.add_row("missed objects", f"{num_images:,} of {population.images:,} images")
    table.add_row("strata by", "confidence" if record.score == "confidence" else "label-free score")
    stdout.print(table, soft_wrap=True)
    headers = ("question", "if it is", "expected interval", "", "from")
    stdout.print(columns_table(headers, expected_precision(record), num_texts=5))
    _report_missing(found.unreadable)
    if undrawn := undrawn_strata(record):
        names, number = "; ".join(each.name for each in undrawn), sum(each.num_units for each in undrawn)
        note(f"No pair is drawn of {names}: {number:,} pairs that the audit says nothing about.")
    if not record.run.is_complete:
        note("The run is not finished. The audit speaks about the committed shards only.")
    stdout.print(path_lines("next", {**_judging(audit), "figures": command("audit", "report", audit)}), soft_wrap=True)


@app.command("page")
def page(
    audit: options.Audit,
    to: Annotated[str, option("--to", "Folder or url for the page.", metavar="DIR")],
    plugins: options.Plugins = None,
) -> None:
    """Write the page on which raters judge: files to open, or to put into a bucket or on a share."""
    options.load_plugins(plugins)
    from pseudoris.audit.audit_folder import AuditFolder
    from pseudoris.audit.judging_page import INDEX_NAME, write_judging_page

    opened, destination = AuditFolder.open(options.local_folder(audit)), RunLocation.open(writable(to))
    if RunLocation.open(str(opened.path.absolute())).holds(destination):
        raise ConfigError(
            f"--to {to!r} is inside the audit. Choose a folder outside it: the page is for others to open."
        )
    with RunLock.held(destination, on_wait=note) as lock, bar("images") as show:
        missing = write_judging_page(opened, destination, plugins or (), lock.guarded(show, is_last_now=True))
    _report_missing(missing)
    report("page", destination.uri(INDEX_NAME), "green", console=stdout)
    report("note", "Open it in a browser and judge. Whoever can open it sees its pictures and texts.", "dim")
    report("note", "Answers stay in the rater's browser until they are downloaded.", "dim")
    report("then", _adding(audit), "dim")


@app.command("add")
def add(
    audit: options.Audit,
    files: Annotated[
        list[Path], argument("FILE...", "Files of verdicts, RATER.jsonl, or Label Studio's export as JSON, RATER.json.")
    ],
) -> None:
    """Add files of verdicts that raters downloaded from the page, or corrections in Label Studio.

    A text and a mask that a person left are right. A changed text was untrue, a deleted mask not an object.
    """
    from pseudoris.audit.audit_folder import AuditFolder, add_file

    folder = AuditFolder.open(options.local_folder(audit))
    for file in files:
        if file.suffix.lower() == ".json":
            from pseudoris.cli.studio_verdicts import studio_verdicts

            num_new, answers = add_file(folder, file, partial(studio_verdicts, folder, file))
        else:
            num_new, answers = add_file(folder, file)
        report("added", f"{file}: {num_new:,} new lines of {answers.rater}", "green")
        if answers.num_cut_bytes:
            note(f"{file} ends in the middle of a line. That line is left out.")
        _tell_changed(answers)


@app.command("report")
def audit_report(
    audit: options.Audit,
    out_run: Annotated[
        str | None,
        option(
            "--out-run",
            "Speak about this run, such as a refilter of the drawn one: what it keeps of the same pairs.",
            metavar="OUT",
        ),
    ] = None,
    as_json: Annotated[bool, option("--json", "Print the figures as one JSON object.")] = False,
    plot: Annotated[Path | None, option("--plot", "Also write a picture of the figures, SVG.")] = None,
    is_cited: Annotated[
        bool, option("--cite", "Also write the figures into the run's data card, DATACARD.md.")
    ] = False,
) -> None:
    """Show what the verdicts say, with 95 % intervals."""
    from pseudoris.audit.audit_folder import AuditFolder
    from pseudoris.audit.figures import audit_figures, report_chart
    from pseudoris.audit.judged_pairs import apply_to
    from pseudoris.cli.audit_report import cite, print_report

    if plot is not None:
        options.check_file(plot)
    folder = AuditFolder.open(options.local_folder(audit))
    answers = folder.answers()
    applied = None
    if out_run is not None:
        with bar("reading shards") as show:
            applied = apply_to(OpenRun.at(RunLocation.open_to_read(out_run)), folder, show)
    figures = audit_figures(folder, answers, applied)
    if plot is not None:
        options.write_text(plot, report_chart(figures), option="--plot")
    if as_json:
        echo_json(figures.as_json())
    else:
        if any(each.verdicts or each.missed for each in answers):
            print_report(folder, figures)
            for each in answers:
                _tell_changed(each)
        else:
            stdout.print(f"{audit}: {figures.num_drawn:,} pairs to judge, and no verdict yet", soft_wrap=True)
        drawn = out_run or folder.draw.run.location
        stricter = {"stricter rule": command("refilter", drawn, "NEW", "--accuracy", "0.9", "--audit", audit)}
        more = {**_judging(audit), "then": _adding(audit)}
        stdout.print(path_lines("next", more if figures.num_judged < figures.num_drawn else stricter), soft_wrap=True)
    if is_cited:
        cite(folder, figures)


def _tell_changed(answers: RaterAnswers) -> None:
    counts = {"replaced": answers.num_replaced, "undone": answers.num_undone}
    if changed := ", ".join(f"{count:,} {word}" for word, count in counts.items() if count):
        report("note", f"Answers of {answers.rater} that do not count any more: {changed}.", "dim")


def _judging(audit: str) -> dict[str, str]:
    return {"judge": command("audit", "page", audit, "--to", f"{audit.rstrip('/')}-page")}


def _adding(audit: str) -> str:
    return command("audit", "add", audit, "NAME.jsonl")


def _report_missing(pictures: Sequence[str]) -> None:
    """Name the first pictures that cannot be shown, by key or with the reason, and say how many there are."""
    for text in pictures[:_SHOWN_MISSING]:
        note(f"Picture not readable: {text}")
    if pictures:
        note(f"{len(pictures):,} pictures are missing. Their questions can only be skipped.")

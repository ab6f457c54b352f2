"""The `pseudoris` command: wires one module a command, and turns errors into messages and exit codes.

Exit codes: 0 done; 1 `verify` or `doctor` found something; 2 the user can mend it; 3 incomplete, the same
command continues; 130 interrupted.
"""

from __future__ import annotations

import logging
import signal
import sys
from importlib import metadata
from typing import Annotated

import typer
from rich.logging import RichHandler

from cli import (
    annotate,
    calibrate,
    demo,
    doctor,
    estimate,
    evaluate,
    export,
    gallery,
    gc,
    importing,
    parts,
    ppt,
    predict,
    refilter,
    sample,
    stats,
    status,
    train,
    verify,
)
from cli.console import PrintableFormatter, report, stderr
from schemas.errors import ConfigError, PseudorisError

USER_MUST_MEND = 2

app = typer.Typer(
    name="pseudoris",
    help="Referring-image-segmentation training data without a human: masks, distinctive expressions, Parquet.",
    no_args_is_help=True,
    epilog="Exit codes: 0 done; 1 verify or doctor found something; 2 yours to mend; 3 incomplete; 130 interrupted.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"pseudoris {metadata.version('pseudoris')}")
        raise typer.Exit


@app.callback()
def _before_any_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


app.command("annotate")(annotate.annotate)
app.command("estimate")(estimate.estimate)
app.command("status")(status.status)
app.command("verify")(verify.verify)
app.command("parts")(parts.parts)
app.command("gc")(gc.gc)
app.command("refilter")(refilter.refilter)
app.command("stats")(stats.stats)
app.command("sample")(sample.sample)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("export")(export.export)
app.command("import")(importing.import_annotation)
app.command("gallery")(gallery.gallery)
app.add_typer(train.app, name="train")
app.command("predict")(predict.predict)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(ppt.app, name="ppt")


def main() -> None:
    """Run the command line; a mistake of the user's ends in one message, without a traceback."""
    handler = RichHandler(console=stderr, show_path=False)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # Ends as an exception: what is half written is removed on the way out.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        app(prog_name="pseudoris")
    except ConfigError as error:
        report("error", str(error), "red")
        sys.exit(USER_MUST_MEND)
    except PseudorisError as error:
        report("stopped", f"{error}\nNothing that is committed is lost; give the same command again.", "red")
        sys.exit(annotate.INCOMPLETE)


if __name__ == "__main__":
    main()

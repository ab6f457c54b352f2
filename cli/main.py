"""The `pseudoris` command: wires one module a command, and turns errors into messages and exit codes.

Exit codes: 0 done; 1 `verify` or `doctor` found something; 2 the user can mend it; 3 incomplete, the same
command continues; 130 interrupted.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Annotated, Final

import typer
from rich.logging import RichHandler

from pseudoris.cli import (
    annotate,
    calibrate,
    demo,
    doctor,
    estimate,
    evaluate,
    export,
    gallery,
    gc,
    import_annotation,
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
from pseudoris.cli.console import PrintableFormatter, report, stderr
from pseudoris.cli.help_page import HelpPage
from pseudoris.schemas.errors import ConfigError, PseudorisError

USER_MUST_MEND = 2

app = typer.Typer(
    name="pseudoris",
    help="Makes training data for referring image segmentation: masks and expressions, as Parquet tables.",
    cls=HelpPage,
    no_args_is_help=True,
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


# Groups as `--help` shows them, in this order.
_GROUPS: Final[dict[str, dict[str, Callable[..., None] | typer.Typer]]] = {
    "Start": {"demo": demo.demo, "doctor": doctor.doctor, "estimate": estimate.estimate},
    "Run": {"annotate": annotate.annotate, "status": status.status, "verify": verify.verify, "gc": gc.gc},
    "Look": {"gallery": gallery.gallery, "stats": stats.stats, "sample": sample.sample, "evaluate": evaluate.evaluate},
    "Data": {
        "export": export.export,
        "import": import_annotation.import_annotation,
        "refilter": refilter.refilter,
        "calibrate": calibrate.calibrate,
        "parts": parts.parts,
        "ppt": ppt.app,
    },
    "Learn": {"train": train.app, "predict": predict.predict},
}
_EPILOGS: Final = {"export": export.FORMATS}

for _group, _commands in _GROUPS.items():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, rich_help_panel=_group)
        else:
            app.command(_name, rich_help_panel=_group, epilog=_EPILOGS.get(_name))(_command)


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
        report("stopped", f"{error}\nNo committed shard is lost. Run the same command again to continue.", "red")
        sys.exit(annotate.INCOMPLETE)


if __name__ == "__main__":
    main()

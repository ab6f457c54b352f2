"""The command `pseudoris`: wires all commands, and turns errors into messages and exit codes.

Called by `pseudoris.__main__` and `deploy/job_entry`. Exit codes: 0 done; 1 `verify` or `doctor` found something, or
every image is quarantined; 2 the user can mend it; 3 incomplete, the same command continues; 130 interrupted.
`pseudoris --help` stays one screen of 100 x 30, and importing this module loads neither Ray nor torch.
"""

from __future__ import annotations

import codecs
import difflib
import errno
import functools
import logging
import re
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Annotated, Any, Final

import typer
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from pseudoris.cli import (
    annotate,
    audit,
    combine,
    config,
    demo,
    doctor,
    evaluate,
    export,
    gallery,
    import_annotation,
    ppt,
    refilter,
    run_contents,
    run_state,
    tile,
    train,
    weights,
)
from pseudoris.cli.console import PrintableFormatter, degrade_output, report, report_stopped, shortened, stderr, stdout
from pseudoris.cli.options import QUOTE
from pseudoris.cli.progress import INTERRUPTED
from pseudoris.pipeline.interrupts import interruptible
from pseudoris.primitives.errors import ConfigError, PseudorisError
from pseudoris.primitives.extras import require_extra
from pseudoris.primitives.machine_limits import told_by_limit
from pseudoris.primitives.untrusted import mask_logs, without_secrets

EXIT_CODES: Final = "Exit codes: 0 done; 1 problem found; 2 error to fix; 3 incomplete, 130 interrupted: run it again"
USER_MUST_MEND = 2
# Matches Click's message about a word that is none of an option's choices.
_CHOICE: Final = re.compile(r"'([^']{1,40})' is not one of (.*)")
# Typer may ship its own copy of Click, so the class is taken from Typer.
UsageError: Any = typer.BadParameter.__base__
# Maps a command to the extra that it needs. What `evaluate` and `export` need depends on their options.
_EXTRAS: Final = {
    "weights get": "remote",
    **dict.fromkeys(("demo", "estimate", "annotate"), "run"),
    **dict.fromkeys(("ppt", "train", "predict"), "train"),
}
_GROUPS: Final[dict[str, dict[str, Callable[..., None] | typer.Typer]]] = {
    "Start": {
        "demo": demo.demo,
        "doctor": doctor.doctor,
        "weights": weights.app,
        "estimate": annotate.estimate,
        "init": config.init,
        "config": config.app,
    },
    "Run": {
        "tile": tile.tile,
        "annotate": annotate.annotate,
        "status": run_state.status,
        "verify": run_state.verify,
        "gc": run_state.gc,
    },
    "Look": {
        "gallery": gallery.gallery,
        "stats": run_contents.stats,
        "sample": run_contents.sample,
        "evaluate": evaluate.evaluate,
        "audit": audit.app,
    },
    "Data": {
        "export": export.export,
        "import": import_annotation.import_annotation,
        "refilter": refilter.refilter,
        "combine": combine.combine,
        "calibrate": evaluate.calibrate,
        "parts": run_contents.parts,
        "ppt": ppt.app,
    },
    "Learn": {"train": train.app, "predict": train.predict},
}
_EPILOGS: Final = {"export": export.FORMATS}
# The last line of each command's help: a command as it is mostly given.
EXAMPLES: Final = {
    "demo": "demo/",
    "doctor": "photos/ out/ --preset base",
    "weights list": "base",
    "weights get": "base",
    "weights check": "base",
    "tile": "aerial/ tiles/ --size 1024",
    "estimate": "photos/ --preset base --gpus 8",
    "init": "settings.yaml",
    "config show": "base",
    "config schema": "",
    "config diff": "base paper",
    "annotate": "photos/ out/ --preset base",
    "status": "out/ --watch",
    "verify": "out/",
    "gc": "out/",
    "gallery": "out/",
    "stats": "out/",
    "sample": "out/ --rows 20",
    "evaluate": "out/ --truth human/ --report report/",
    "audit draw": "out/ audit/ --pairs 200",
    "audit page": "audit/ --to page/",
    "audit add": "audit/ verdicts.jsonl",
    "audit report": "audit/",
    "export": "out/ data/ --format refer",
    "import": "refcocog/ train2014/ human/",
    "refilter": "out/ stricter/ --tau 1.2",
    "combine": "v1/ v2/ both/",
    "calibrate": "out/ --composer --to fitted.yaml",
    "parts": "out/ --table expressions",
    "ppt objects": "classes/ d_sem/",
    "ppt compose": "d_sem/ d_ref/",
    "ppt pairs": "out/ pairs/",
    "train ppt": "--d-sem d_sem/ --d-ref d_ref/ --out model/",
    "train student": "out/ --out model/",
    "predict": 'photo.jpg "the dog on the left" --model model/',
}


class HelpPage(TyperGroup):
    """The root command, with a help page of its own; commands below it keep Typer's.

    Typer reads help texts as Rich markup, which would take "[class name]" for a style and drop it: every text below
    the root is escaped. Markup mode None needs no escaping, but prints neither choices nor colours.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        _prepare(self.commands)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words; without one, show the page. Typer's own way there drops what `format_help` writes."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit(USER_MUST_MEND)
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            error.message = shortened(without_secrets(error.message))
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run a command; say how an interrupted one goes on. Typer would end without a word."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            report_stopped("interrupted")
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            stdout.on_broken_pipe()
        except UsageError as error:
            # Pydantic begins a message with `Value error, `, which does not help a user, so it is removed.
            error.message = shortened(without_secrets(error.message.removeprefix("Value error, ")))
            if chosen := _CHOICE.search(error.message):
                near = difflib.get_close_matches(chosen[1], re.findall("'([^']*)'", chosen[2]), n=1, cutoff=0.5)
                error.message += f" Did you mean {near[0]!r}?" if near else ""
            if "extra argument" in error.message:
                error.message += f". {QUOTE}"
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page: the commands by group, each with the first line of its help, then options and exit codes."""
        page = Table.grid(padding=(0, 2, 0, 0))
        for width in (5, 9, None):
            page.add_column(min_width=width)
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            # Help texts escape brackets for Typer's markup. The escapes are removed, because this page has no markup.
            summary = (command.help or "").partition("\n")[0].replace("\\[", "[")
            groups.setdefault(str(getattr(command, "rich_help_panel", "")), []).append((name, summary))
        for group, rows in groups.items():
            for number, (name, summary) in enumerate(rows):
                page.add_row("" if number else group, name, summary)
        records = [parameter.get_help_record(ctx) for parameter in self.get_params(ctx)]
        options = f"Options: {', '.join(names for names, _ in filter(None, records))}"
        with stdout.capture() as captured:
            stdout.print(self.get_usage(ctx), self.help, page, options, EXIT_CODES, sep="\n")
        # The last line end is removed, because Typer adds one.
        formatter.write(captured.get().rstrip("\n"))


def _prepare(commands: Mapping[str, Any], above: str = "", extra: str | None = None) -> None:
    """Escape the texts of commands, and let each check its extra after its words were parsed: help works without."""
    for name, command in commands.items():
        for each in (command, *command.params):
            for text in ("help", "short_help", "epilog"):
                if found := getattr(each, text, None):
                    setattr(each, text, escape(found))
        path, needed = f"{above}{name}", extra or _EXTRAS.get(f"{above}{name}")
        if path in EXAMPLES:
            example = f"Example: {' '.join(filter(None, ('pseudoris', path, EXAMPLES[path])))}"
            command.epilog = "\n  ".join(filter(None, (command.epilog, escape(example))))
        if hasattr(command, "commands"):
            _prepare(command.commands, f"{path} ", needed)
        elif needed is not None:
            command.callback = _checked(command.callback, needed, f"`pseudoris {path}`")


def _checked(work: Callable[..., Any], extra: str, what: str) -> Callable[..., Any]:
    @functools.wraps(work)
    def checked(*values: Any, **named: Any) -> Any:
        require_extra(extra, what)
        return work(*values, **named)

    return checked


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
    encoding = sys.getfilesystemencoding()
    if codecs.lookup(encoding).name != "utf-8":
        raise ConfigError(
            f"the encoding of file names is {encoding!r} here, and names outside of it would get other keys than on "
            "other machines: set PYTHONUTF8=1, or a locale such as LC_ALL=C.UTF-8, and run the command again"
        )


for _group, _commands in _GROUPS.items():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, rich_help_panel=_group)
        else:
            app.command(_name, rich_help_panel=_group, epilog=_EPILOGS.get(_name))(_command)


def main() -> None:
    """Run the command line. A mistake of the user ends it with one message, without a traceback."""
    handler = RichHandler(console=stderr, show_path=False)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    degrade_output()
    mask_logs()
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        # Signals raise an exception here, so that half-written files are removed before the process ends.
        with interruptible(says="stopping: this may take some seconds"):
            app(prog_name="pseudoris")
    except ConfigError as error:
        report("error", str(error), "red")
        sys.exit(USER_MUST_MEND)
    except PseudorisError as error:
        says_so = "same command again" in str(error)
        report("stopped", str(error) if says_so else f"{error}\nRun the same command again to continue.", "red")
        sys.exit(annotate.INCOMPLETE)
    except (OSError, RuntimeError, MemoryError, ImportError) as error:
        told = told_by_limit(error)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            told = f"{error.filename}: the path is too long for the file system: name a shorter one"
        if told is None:
            raise
        report("error", told, "red")
        sys.exit(USER_MUST_MEND)


if __name__ == "__main__":
    main()

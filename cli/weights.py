"""`pseudoris weights`: shows, downloads and checks the weights of a preset. Called by `main`.

`workers/checkpoints` does the work. Only `get` uses the network. `get` and `check` compare every file with its digest.
"""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from pseudoris.cli import options
from pseudoris.cli.annotate import INCOMPLETE
from pseudoris.cli.console import report, stdout
from pseudoris.cli.formats import format_bytes, path_lines
from pseudoris.cli.options import argument, option
from pseudoris.cli.progress import Bar, bar
from pseudoris.primitives.errors import ConfigError, TransientError, gather
from pseudoris.primitives.untrusted import printable
from pseudoris.primitives.uris import secret_in
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config, preset_names

app = typer.Typer(no_args_is_help=True, help="List, download and check the weights of a preset.")

Preset = Annotated[
    str,
    argument(
        "PRESET",
        "A preset, such as base or paper; or weights, such as open_clip:RN50-quickgelu/openai or OWNER/NAME@COMMIT.",
    ),
]


@app.command("list")
def list_weights(
    preset: Annotated[str | None, argument("PRESET", "Preset or weights uri. By default all presets.")] = None,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
) -> None:
    """Show name, licence, size, sha256 and source of each file, and where it lies here. Needs no network."""
    from pseudoris.workers.checkpoints.weight_files import weight_facts

    for each in preset_names() if preset is None else [preset]:
        for stage, weights in _weights_of(each, config_file, assignments).items():
            name, facts, found = weight_facts(weights)
            lines = {**facts, "here": str(found) if found else f"no. To get it: pseudoris weights get {each}"}
            stdout.print(path_lines(f"{each}, {stage}: {name}", lines), "", sep="\n", soft_wrap=True)


@app.command("get")
def get(
    preset: Preset,
    to: Annotated[
        Path | None,
        option(
            "--to",
            "Put the files there, to be carried to a machine without a network. By default the cache: "
            "PSEUDORIS_WEIGHTS, else ~/.cache/pseudoris/weights.",
            metavar="DIR",
        ),
    ] = None,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
) -> None:
    """Download the files that are missing, and check their digests. Run again, it continues what broke off."""
    from pseudoris.workers.checkpoints.weight_files import ask_early

    files = _weights_of(preset, config_file, assignments)
    ask_early(files.values())
    try:
        paths = gather(*(partial(_get, weights, to) for weights in files.values()))
    except TransientError as error:
        report("stopped", f"{error}", "yellow")
        raise typer.Exit(INCOMPLETE) from None
    shown = {stage: str(path) for stage, path in zip(files, paths, strict=True)}
    stdout.print(path_lines(f"weights of {preset}", shown), soft_wrap=True)
    if to is not None:
        stdout.print(f"On the other machine: export PSEUDORIS_WEIGHTS={shlex.quote(str(to))}", soft_wrap=True)


@app.command("check")
def check(preset: Preset, config_file: options.ConfigFile = None, assignments: options.Assignments = None) -> None:
    """Check that each file is here and has the right digest. Needs no network.

    Exit code 1 if there is a problem.
    """
    from pseudoris.workers.checkpoints.weight_files import check_weights

    weights = _weights_of(preset, config_file, assignments)
    checks = {stage: check_weights(each, preset) for stage, each in weights.items()}
    for stage, (is_ok, detail) in checks.items():
        word = ("ok ", "green") if is_ok else ("off", "red")
        stdout.print(Text.assemble(word, f"  {stage:<8}  {printable(detail)}"), soft_wrap=True)
    if not all(is_ok for is_ok, _ in checks.values()):
        raise typer.Exit(1)


def _weights_of(preset: str, config_file: Path | None, assignments: list[str] | None) -> dict[str, WeightsConfig]:
    """Return the weights of a preset by stage, or of the one uri that was given instead."""
    if ":" in preset or "/" in preset:
        if config_file is not None or assignments:
            raise ConfigError(f"{preset!r} is a weights uri: --config and --set need a preset")
        if secret := secret_in(preset, None):
            raise ConfigError(secret)
        return {"weights": WeightsConfig(uri=preset)}
    from pseudoris.workers.stages import STAGES

    config = load_config(preset, config_file, assignments or ())
    return {stage.name: stage.settings(config).weights for stage in STAGES}


def _get(weights: WeightsConfig, to: Path | None) -> Path | str:
    from pseudoris.workers.checkpoints.weight_files import get_weights

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )

    def amount(done: int, total: int) -> str:
        return f"{format_bytes(done)} of {format_bytes(total)}"

    with ExitStack() as stack:

        @cache
        def shown() -> Bar:
            return stack.enter_context(bar(columns=columns, amount=amount, console=stdout, is_transient=False))

        return get_weights(weights, to, lambda name: shown().named(name))

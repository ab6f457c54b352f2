"""`pseudoris config show`: every setting with its value, where it was set, and its reason."""

from __future__ import annotations

from typing import Annotated

import typer

from pseudoris.cli import options
from pseudoris.cli.console import echo

app = typer.Typer(help="Show the settings of a preset.", no_args_is_help=True)


@app.command()
def show(
    preset: Annotated[
        str,
        typer.Argument(
            metavar="[PRESET]", help="tiny, tiny-composed, base, paper, or open (never run with trained weights)."
        ),
    ] = "tiny",
    config: options.ConfigFile = None,
    assignments: options.Assignments = None,
) -> None:
    """Print every setting as YAML, with where it was set and its reason.

    The output is a file that --config takes. A section that is off is a comment.
    """
    # Only here: other commands need not wait for what this one imports.
    from pseudoris.schemas.config_layers import own_layers, preset_layers, shown_config

    echo(shown_config([*preset_layers(preset), *own_layers(config, assignments or ())]), nl=False)


@app.callback()
def _group() -> None:
    """Show the settings of a preset."""

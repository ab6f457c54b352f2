"""`pseudoris calibrate`: weights and bounds of confidence for one's own models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.progress import Progress

from cli import options
from cli.console import report, stderr
from cli.evaluate import open_truth
from store.header import require_header
from store.location import RunLocation

if TYPE_CHECKING:
    from training.calibration import Calibration


def calibrate(
    out: options.Out,
    truth: Annotated[
        str | None,
        typer.Option(
            metavar="TRUTH",
            help="As of `pseudoris evaluate`: synthworld, or an OUT of `pseudoris import`. Without it no label is "
            "looked at: scores count alike, and the bound follows from --yield.",
            show_default=False,
        ),
    ] = None,
    coverage: Annotated[float, typer.Option(min=0, max=1, help="Of the truth's objects, at least; needs it.")] = 0.65,
    least_yield: Annotated[
        float, typer.Option("--yield", min=0, help="Kept expressions a mask: at least, or, without a truth, about.")
    ] = 2.0,
    images: Annotated[int | None, typer.Option(min=1, help="The first so many; all by default.")] = None,
    to: Annotated[Path | None, typer.Option(help="Write the YAML there too.", show_default=False)] = None,
) -> None:
    """Print the YAML of `filtering.confidence` and `filtering.keep` for a run's models, from its tables alone."""
    # Only here: other commands need not wait for what this one imports.
    from training.calibration import calibrated_run

    location = RunLocation.open(out)
    header = require_header(location)
    with Progress(console=stderr, transient=True) as progress:
        known = None if truth is None else open_truth(truth, header, progress)
        found = calibrated_run(location, known, coverage=coverage, least_yield=least_yield, max_images=images)
    text = as_yaml(found)
    typer.echo(text, nl=False)
    if to is not None:
        to.write_text(text, encoding="utf-8")
    reached = found.reached
    kept = f"it keeps {reached.distinct:.2f} expressions a mask"
    if known is not None:
        if reached.coverage < coverage or reached.distinct < least_yield:
            report("note", "no bounds reach that coverage and yield: these reach the widest coverage", "yellow")
        kept += f", {reached.accuracy:.3f} of them right, for {reached.coverage:.3f} of the objects"
    report("calibrated", f"on these {found.num_images:,} images {kept}", "green")


def as_yaml(found: Calibration) -> str:
    """Return what is laid over a preset with `--config`, beside the `captions.listening` of the run."""
    weights = {name: value for name, value in found.weights.model_dump().items() if value}
    filtering = {"tau": 0.0, "confidence": weights, "keep": found.reached.bounds.conditions()}
    return yaml.safe_dump({"filtering": filtering}, sort_keys=False)

"""`pseudoris calibrate`: weights and bounds of confidence for one's own models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
import yaml
from rich.progress import Progress

from cli import options
from cli.console import report, stderr
from cli.destinations import check_file
from cli.evaluate import open_truth
from schemas.errors import ConfigError
from store.header import require_header
from store.location import RunLocation

if TYPE_CHECKING:
    from training.calibration import Calibration
    from training.calibration.fitting import Reached

DEFAULT_COVERAGE: Final = 0.65
# Of the yield: so far apart lie the bounds of a small run. Larger, and a yield that is not there passes in silence.
_NEAR: Final = 0.1


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
    coverage: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Of the truth's objects, at least; needs it.", show_default=str(DEFAULT_COVERAGE)
        ),
    ] = None,
    least_yield: Annotated[
        float,
        typer.Option(
            "--yield",
            min=0,
            help="Kept expressions a mask, composed ones among them: at least, or, without a truth, about.",
        ),
    ] = 2.0,
    images: Annotated[int | None, typer.Option(min=1, help="The first so many; all by default.")] = None,
    to: Annotated[Path | None, typer.Option(help="Write the YAML there too.", show_default=False)] = None,
) -> None:
    """Print the YAML of `filtering.confidence` and `filtering.keep` for a run's models, from its tables alone."""
    # Only here: other commands need not wait for what this one imports.
    from training.calibration import calibrated_run

    if coverage is not None and truth is None:
        raise ConfigError(f"--coverage {coverage:g} is of a truth's objects: give --truth too, or leave it out")
    aim = DEFAULT_COVERAGE if coverage is None else coverage
    if to is not None:
        check_file(to)
    location = RunLocation.open(out)
    header = require_header(location)
    with Progress(console=stderr, transient=True) as progress:
        known = None if truth is None else open_truth(truth, header, progress)
        found = calibrated_run(location, known, coverage=aim, least_yield=least_yield, max_images=images)
    text = as_yaml(found)
    typer.echo(text, nl=False)
    if to is not None:
        _write(to, text)
    reached = found.reached
    kept = f"it keeps {reached.distinct:.2f} expressions a mask"
    if known is None:
        kept += f", of about {least_yield:g} wanted"
        if abs(reached.distinct - least_yield) > _NEAR * max(least_yield, 1):
            report("note", _why_not(reached, least_yield), "yellow")
    else:
        if reached.coverage < aim or reached.distinct < least_yield:
            report("note", "no bounds reach that coverage and yield: these reach the widest coverage", "yellow")
        kept += f", {reached.accuracy:.3f} of them right, for {reached.coverage:.3f} of the objects"
    report("calibrated", f"on these {found.num_images:,} images {kept}", "green")


def _why_not(reached: Reached, wanted: float) -> str:
    """Say why no bound reaches a yield where no label is looked at."""
    from training.calibration.fitting import NO_LABEL_RANK

    nearest = f"no bounds reach a yield of {wanted:g}: the nearest is {reached.distinct:.2f}"
    if reached.distinct < wanted and reached.bounds.min_confidence == 0:
        return f"{nearest}. At most {NO_LABEL_RANK} are kept of what was drawn for a mask: give a --truth for more"
    return f"{nearest}. Bounds go by steps, and what was composed or written by a person is kept in any case"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--to {path} cannot be written ({error.strerror or error}): name another file") from error


def as_yaml(found: Calibration) -> str:
    """Return what is laid over a preset with `--config`, beside the `captions.listening` of the run."""
    weights = {name: value for name, value in found.weights.model_dump().items() if value}
    filtering = {"tau": 0.0, "confidence": weights, "keep": found.reached.bounds.conditions()}
    return yaml.safe_dump({"filtering": filtering}, sort_keys=False)

"""`pseudoris calibrate`: weights and bounds of confidence for one's own models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import yaml

from pseudoris.cli import options
from pseudoris.cli.console import echo, report
from pseudoris.cli.options import check_file
from pseudoris.cli.progress import bar
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header

if TYPE_CHECKING:
    from pseudoris.training.calibration import Calibration
    from pseudoris.training.calibration.confidence_fit import BoundsFigures

DEFAULT_COVERAGE: Final = 0.65
# Of the yield: so far apart lie the bounds of a small run. Larger, and a yield that is not there passes in silence.
_NEAR: Final = 0.1


def calibrate(
    out: options.Out,
    truth: Annotated[
        str | None,
        typer.Option(
            metavar="TRUTH",
            help="As in `pseudoris evaluate`: synthworld, or the OUT of `pseudoris import`. Without it no labels "
            "are used: all scores weigh the same, and --yield sets the bound.",
        ),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help=f"Smallest share of the truth's objects to cover, {DEFAULT_COVERAGE} by default. Needs --truth.",
        ),
    ] = None,
    least_yield: Annotated[
        float,
        typer.Option(
            "--yield",
            min=0,
            help="Smallest number of kept expressions per mask, composed ones included. Without --truth: the number "
            "to aim for.",
        ),
    ] = 2.0,
    images: Annotated[int | None, typer.Option(min=1, help="Use the first N images; all by default.")] = None,
    to: Annotated[Path | None, typer.Option(help="Also write the YAML to this file.")] = None,
) -> None:
    """Fit a run's confidence and keep rule, and print them as YAML.

    The YAML holds `filtering.confidence` and `filtering.keep`; with labels also `filtering.pair_weight`. It reads the
    tables only.
    """
    if coverage is not None and truth is None:
        raise ConfigError(f"--coverage {coverage:g} needs --truth. Give --truth, or leave --coverage out.")
    if to is not None:
        check_file(to)
    aim = DEFAULT_COVERAGE if coverage is None else coverage
    location = RunLocation.open_to_read(out)
    found = _fitted(location, truth, coverage=aim, least_yield=least_yield, images=images)
    text = as_yaml(found)
    echo(text, nl=False)
    if to is not None:
        options.write_text(to, text, option="--to")
    _report_fit(found, aim if truth is not None else None, least_yield)


def _fitted(
    location: RunLocation, truth: str | None, *, coverage: float, least_yield: float, images: int | None
) -> Calibration:
    # Only here: other commands need not wait for what this one imports.
    from pseudoris.synthworld.scene_truth import SceneTruth
    from pseudoris.training.calibration import calibrated_run
    from pseudoris.training.evaluation.human_truth import open_truth

    header = require_header(location)
    with bar() as show:
        reading = show.named("reading the truth")
        known = None if truth is None else open_truth(truth, header, SceneTruth, reading)
        return calibrated_run(location, known, coverage=coverage, least_yield=least_yield, max_images=images)


def _report_fit(found: Calibration, coverage: float | None, least_yield: float) -> None:
    """Say what the bounds keep; `coverage` is what was asked for, None without a truth."""
    reached = found.reached
    kept = f"it keeps {reached.distinct:.2f} expressions per mask"
    if coverage is None:
        kept += f" (wanted: about {least_yield:g})"
        if abs(reached.distinct - least_yield) > _NEAR * max(least_yield, 1):
            report("note", _why_not(reached, least_yield), "yellow")
    else:
        if reached.coverage < coverage or reached.distinct < least_yield:
            report("note", "No bounds reach this coverage and yield. These reach the widest coverage.", "yellow")
        kept += f"; accuracy {reached.accuracy:.3f}, coverage {reached.coverage:.3f}"
    report("calibrated", f"on these {found.num_images:,} images, {kept}", "green")


def _why_not(reached: BoundsFigures, wanted: float) -> str:
    """Say why no bound reaches a yield where no label is looked at."""
    from pseudoris.training.calibration.confidence_fit import NO_LABEL_RANK

    nearest = f"No bounds reach a yield of {wanted:g}. The nearest is {reached.distinct:.2f}"
    if reached.distinct < wanted and reached.bounds.min_confidence == 0:
        return f"{nearest}. Without --truth at most {NO_LABEL_RANK} captions per mask are kept. Give --truth for more."
    return f"{nearest}. Bounds change in steps. Composed and human expressions are always kept."


def as_yaml(found: Calibration) -> str:
    """Return what is laid over a preset with `--config`, beside the `captions.listening` of the run."""
    weights = found.weights.model_dump(exclude_defaults=True)
    filtering: dict[str, Any] = {"tau": 0.0, "confidence": weights, "keep": found.reached.bounds.conditions()}
    if found.pair_weight is not None:
        filtering["pair_weight"] = found.pair_weight.model_dump(exclude_none=True)
    return yaml.safe_dump({"filtering": filtering}, sort_keys=False)

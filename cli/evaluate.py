"""`pseudoris evaluate` and `calibrate`: compares a run or a model with a truth, and fits a run's rule to one.

Called by `main`. What the answers share with the truth is printed before any figure. A fit holds for the models whose
digests it records.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import yaml
from rich.console import Group, RenderableType

from pseudoris.cli import options
from pseudoris.cli.console import echo, echo_json, note, report, stderr, stdout
from pseudoris.cli.formats import columns_table, facts_table
from pseudoris.cli.options import argument, check_apart, check_file, option
from pseudoris.cli.progress import bar
from pseudoris.files.location import RunLocation
from pseudoris.files.named_places import moved_places
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.extras import require_extra
from pseudoris.primitives.uris import writable
from pseudoris.schemas.fitted import FittedValues
from pseudoris.schemas.keep_rule import COMPOSED_KINDS
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.runs.header import check_alike, require_header
from pseudoris.store.tables.open_run import OpenRun

if TYPE_CHECKING:
    from pseudoris.schemas.estimate import Estimate
    from pseudoris.training.calibration import Calibration
    from pseudoris.training.evaluation.model_evaluation import ModelEvaluation

DEFAULT_COVERAGE: Final = 0.65
DEFAULT_YIELD: Final = 2.0
# A fit records the models of these stages and holds only for them. The masks may come from any proposer.
_FITTED: Final = ("caption", "filter")
# A note is printed if the yield differs by more than this share from the wanted one: a small run has few bounds to
# choose from.
_NEAR: Final = 0.1

Preset = Annotated[str | None, option("--preset", "Of clip:…: tiny, base or paper; of clip+sam: tiny or paper.")]
Assignments = Annotated[list[str] | None, option("--set", "Of clip:… and clip+sam: set one key. Can be repeated.")]
_FitTruth = Annotated[
    str | None,
    option(
        "As in `pseudoris evaluate`: synthworld, or the OUT of `pseudoris import`. Without it no labels are used: all "
        "scores weigh the same, and --yield sets the bound.",
        metavar="TRUTH",
    ),
]
_Coverage = Annotated[
    float | None,
    option(
        f"Smallest share of the truth's objects to cover, {DEFAULT_COVERAGE} by default. Needs --truth.", min=0, max=1
    ),
]
_LeastYield = Annotated[
    float | None,
    option(
        "--yield",
        f"Smallest number of kept expressions per mask, composed ones of one mask included, {DEFAULT_YIELD:g} by "
        "default. Without --truth: the number to aim for.",
        min=0,
    ),
]
_Audit = Annotated[
    str | None,
    option(
        "--audit",
        "Judged audit of OUT: fit the lines of the column weight to its verdicts. The rest stays as in OUT.",
        metavar="AUDIT",
    ),
]
_Composer = Annotated[
    bool,
    option(
        "--composer",
        "Of the composer's weights for any captioner: write them in the units of OUT's scores, without labels. The "
        "rest stays as in OUT.",
    ),
]


def evaluate(
    truth: Annotated[
        str,
        option(
            "--truth",
            "Of a run: synthworld (the truth.json beside SOURCE), synthworld:FILE, or the OUT of `pseudoris "
            "import`. The synthetic world is judged exactly. An import is joined by image key and judged "
            "approximately: a text refers to the object whose human sentences are most similar to it (token F1). Of a "
            "model: an import or a run. Each kept expression is asked.",
            metavar="TRUTH",
        ),
    ],
    out: Annotated[str | None, argument("[OUT]", "Folder or url of the run to judge.")] = None,
    model: Annotated[
        str | None,
        option(
            "--model",
            "Evaluate a model instead: the --out of `pseudoris train`, a file of predictions (.parquet or .jsonl "
            "with image, text, segmentation), or without training clip:sentence, clip:noun or clip+sam.",
            metavar="MODEL",
        ),
    ] = None,
    split: Annotated[
        str | None, option("--split", "With --model: splits of the truth, e.g. val,testA,testB. Default: all.")
    ] = None,
    preset: Preset = None,
    assignments: Assignments = None,
    images: Annotated[
        list[str] | None,
        option("--images", "With --model: where the truth's images are now, as --source.", metavar="PATH"),
    ] = None,
    sample: Annotated[int | None, option("Of a run: read N shards, spread evenly. Default: all.", min=1)] = None,
    report_to: Annotated[
        str | None, option("--report", "Folder for evaluation.html, .json and of a run .md.", metavar="FOLDER")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare a run, or the masks of a model, with a truth; figures have intervals.

    Of a run OUT it tells accuracy, yield, coverage and masks, from the tables alone. Of a model it tells
    oIoU, mIoU and P@0.3 to 0.9, by split and kind; its report shows the worst and the best answers.
    """
    if (out is None) == (model is None):
        raise typer.BadParameter("Give OUT, the run to judge, or --model, and not both.")
    if model is not None:
        if sample is not None:
            raise typer.BadParameter("--sample belongs to a run. Leave it out, or give OUT in place of --model.")
        _evaluate_model(model, truth, split, preset, assignments or [], images, report_to, as_json=as_json)
        return
    for name, value in {"--split": split, "--preset": preset, "--set": assignments, "--images": images}.items():
        if value is not None:
            raise typer.BadParameter(f"{name} belongs to --model. Leave it out, or give --model in place of OUT.")
    _evaluate_run(out or "", truth, sample, report_to, as_json=as_json)


def _evaluate_run(out: str, truth: str, sample: int | None, report_to: str | None, *, as_json: bool) -> None:
    from pseudoris.synthworld.scene_truth import SceneTruth
    from pseudoris.training.evaluation.evaluation_report import caption, image_lines, tables, write_report
    from pseudoris.training.evaluation.human_truth import open_truth
    from pseudoris.training.evaluation.run_evaluation import as_tree, evaluate_run

    location = RunLocation.open_to_read(out)
    header = require_header(location)
    destination = _destination(report_to, location)
    with bar() as show:
        known = open_truth(truth, header, SceneTruth, show.named("reading the truth"))
        found = evaluate_run(location, known, sample=sample, on_progress=show.named("judging shards"))
    if as_json:
        echo_json(as_tree(found))
    else:
        shown = [columns_table(headers, rows, title=title) for title, headers, rows in tables(found, _cell)]
        facts = facts_table("evaluation", image_lines(found).items())
        stdout.print(_parts(*found.circularity, facts, *shown, *found.notes, caption(found)))
    if destination is not None:
        report("report", write_report(found, destination), "green", console=stderr if as_json else stdout)


def _evaluate_model(
    model: str,
    truth: str,
    split: str | None,
    preset: str | None,
    assignments: list[str],
    images: list[str] | None,
    report_to: str | None,
    *,
    as_json: bool,
) -> None:
    splits = [name for each in (split or "").split(",") if (name := each.strip())]
    if split is not None and not splits:
        raise typer.BadParameter("--split names no split. Give some, such as val,testA, or leave it out for all.")
    require_extra("train", "`pseudoris evaluate --model`")
    from pseudoris.training.evaluation import answerers
    from pseudoris.training.evaluation.held_out import HeldOutExpressions, circularity
    from pseudoris.training.evaluation.model_evaluation import evaluate_model, write_model_report
    from pseudoris.training.learning.checkpoint_folder import SUMMARY_NAME

    destination = _destination(report_to, RunLocation.open_to_read(truth))
    questions = HeldOutExpressions(
        truth, moved_places(images), splits=splits, has_groups=True, reads_images=not answerers.is_predictions(model)
    )
    answerer, origin = answerers.open_answerer(model, questions, preset=preset, assignments=assignments)
    notes = answerer.notes() if isinstance(answerer, answerers.Predictions) else []
    if Path(model).is_dir() and not (Path(model) / SUMMARY_NAME).exists():
        notes.append(f"The training in {model} is not finished: this is its last checkpoint.")
    with bar("asking") as show:
        found = evaluate_model(
            answerer,
            questions,
            model=model,
            notes=notes,
            settings={"preset": preset, "set": assignments, "splits": splits},
            on_progress=show,
        )
    found = replace(found, circularity=circularity(origin, questions))
    if as_json:
        echo_json(found.as_json())
    else:
        stdout.print(model_view(found))
    if destination is not None:
        address = write_model_report(found, questions, destination)
        report("report", address, "green", console=stderr if as_json else stdout)


def _destination(report_to: str | None, read: RunLocation) -> RunLocation | None:
    destination = None if report_to is None else RunLocation.open(writable(report_to))
    if destination is not None:
        check_apart(read, destination, option="--report")
    return destination


def model_view(found: ModelEvaluation) -> RenderableType:
    """Return a model's figures as a table of at most 80 columns; the intervals of P@X are in JSON and the report."""
    from pseudoris.training.evaluation import model_evaluation as models

    lines = facts_table("evaluation", models.facts(found).items())
    named = models.FIGURE_TITLES
    for name, title in models.NO_TARGET_TITLES.items():
        if name in found.parts[0].figures:
            lines.add_row(title, found.parts[0].figures[name].value_text(3))
    table = columns_table(("", "asked", *named.values()), title="percent")
    for part in found.parts:
        figures = zip(named, models.percents(part, named), strict=True)
        cells = (_cell(each, 2) if name in ("oiou", "miou") else each.value_text(1) for name, each in figures)
        table.add_row(models.split_name(part), f"{part.num_expressions:,}", *cells)
    return _parts(*found.circularity, lines, table, *found.notes, models.model_caption(found))


def _parts(first: RenderableType, *others: RenderableType) -> Group:
    """Return tables and sentences with an empty line between two of them."""
    return Group(first, *(each for other in others for each in ("", other)))


def _cell(estimate: Estimate, digits: int) -> str:
    """Return a figure above its interval. The interval has a digit less, so that six columns fit a terminal."""
    value = estimate.value_text(digits)
    if not math.isfinite(estimate.low):
        return value
    fewer = digits - 1
    return f"{value}\n{estimate.low:.{fewer}f}–{estimate.high:.{fewer}f}"


def calibrate(
    out: options.Out,
    truth: _FitTruth = None,
    coverage: _Coverage = None,
    least_yield: _LeastYield = None,
    images: Annotated[int | None, option("Use the first N images; all by default.", min=1)] = None,
    audit: _Audit = None,
    composer: _Composer = False,
    to: Annotated[Path | None, option("Write what was fitted to this file, and print settings that name it.")] = None,
) -> None:
    """Fit a run's confidence and keep rule, and print them as YAML.

    What was fitted (confidence, with labels also the lines of the column weight) is a file of its own, which
    `filtering.fitted.uri` names, or `refilter --weights`. It reads the tables only.
    """
    if audit is not None or composer:
        if any(each is not None for each in (truth, coverage, least_yield, images)) or (audit is not None and composer):
            said = "--composer needs no labels" if composer else "--audit has its own verdicts"
            others = "--truth, --coverage, --yield, --images and the other of --audit, --composer"
            raise ConfigError(f"{said}: leave {others} out.")
    elif coverage is not None and truth is None:
        raise ConfigError(f"--coverage {coverage:g} needs --truth. Give --truth, or leave --coverage out.")
    if to is not None:
        check_file(to)
    from pseudoris.synthworld.scene_truth import SceneTruth
    from pseudoris.training.calibration import calibrated_run
    from pseudoris.training.evaluation.human_truth import open_truth

    aim = DEFAULT_COVERAGE if coverage is None else coverage
    least = DEFAULT_YIELD if least_yield is None else least_yield
    location = RunLocation.open_to_read(out)
    check_alike(location, require_header(location), "`calibrate`")
    if audit is not None or composer:
        text = fitted_text((run := OpenRun.at(location)).header, _corrected(run, audit))
        return echo(text, nl=False) if to is None else options.write_text(to, text, option="--to")
    header = require_header(location)
    with bar() as show:
        reading = show.named("reading the truth")
        known = None if truth is None else open_truth(truth, header, SceneTruth, reading)
        found = calibrated_run(location, known, coverage=aim, least_yield=least, max_images=images)
    fitted = header.config.filtering.fitted_values
    text = fitted_text(header, replace(fitted, confidence=found.weights, pair_weight=found.pair_weight))
    if to is None:
        echo(f"# --to FILE writes this:\n{text}---\n# and these settings name it:")
    else:
        options.write_text(to, text, option="--to")
    # The user gives these settings with `--config`, over a preset and beside the run's own `captions.listening`.
    # The run's bounds on composed kinds decided which composed expressions the figures count.
    kinds = [str(each) for each in header.config.filtering.keep if each.column in COMPOSED_KINDS]
    conditions = [*kinds, *found.reached.bounds.conditions()]
    settings = {"tau": 0.0, "keep": conditions, "fitted": {"uri": str(to or "FILE")}}
    echo(yaml.safe_dump({"filtering": settings}, sort_keys=False), nl=False)
    _report_fit(found, aim if truth is not None else None, least)


def _corrected(run: OpenRun, audit: str | None) -> FittedValues:
    """Return a run's fitted values with the lines of an audit, or with the composer's weights in the run's units."""
    fitted = run.header.config.filtering.fitted_values
    if audit is not None:
        from pseudoris.cli.audit_report import lines_of_audit

        return replace(fitted, pair_weight=lines_of_audit(run, audit))
    from pseudoris.training.calibration.run_units import posterior_of_run

    done = sum(each.counts.images for each in run.receipts)
    if done < (planned := run.header.num_images):
        note(f"{run.location.root} is not finished: it holds {done:,} of {planned:,} images")
    posterior = posterior_of_run(run)
    if posterior == fitted.posterior:
        note("The composer's weights stay as in OUT: labels taught them, or its own scores. No refilter needs them")
        return fitted
    lines = fitted.pair_weight
    if lines is not None and lines.composed is not None:
        # The line was fitted to the old confidences, so it does not hold for the new confidences.
        lines = lines.model_copy(update={"composed": None})
        note("The line of composed weights is left out: judge an audit of what is composed anew")
    return replace(fitted, pair_weight=lines, posterior=posterior)


def _report_fit(found: Calibration, coverage: float | None, least_yield: float) -> None:
    """Say what the bounds keep; `coverage` is the asked one, None without a truth."""
    reached = found.reached
    kept = f"it keeps {reached.distinct:.2f} expressions of one mask each, per mask"
    if coverage is None:
        kept += f" (wanted: about {least_yield:g})"
        if abs(reached.distinct - least_yield) > _NEAR * max(least_yield, 1):
            from pseudoris.training.calibration.confidence_fit import NO_LABEL_RANK

            why = "Bounds change in steps. Composed and human expressions are always kept."
            if reached.distinct < least_yield and reached.bounds.min_confidence == 0:
                why = f"Without --truth at most {NO_LABEL_RANK} captions per mask are kept. Give --truth for more."
            nearest = f"No bounds reach a yield of {least_yield:g}. The nearest is {reached.distinct:.2f}. {why}"
            note(nearest)
    else:
        if reached.coverage < coverage or reached.distinct < least_yield:
            note("No bounds reach this coverage and yield. These reach the widest coverage.")
        kept += f"; accuracy {reached.accuracy:.3f}, coverage {reached.coverage:.3f}"
    report("calibrated", f"on these {found.num_images:,} images, {kept}", "green")


def fitted_text(header: RunHeader, fitted: FittedValues) -> str:
    """Return the text of a file for `filtering.fitted.uri`: the values, and the models that they were fitted for."""
    models = header.runs[0].identity.weights
    tree: dict[str, Any] = {"models": {name: each for name, each in models.items() if name in _FITTED}}
    if fitted.confidence is not None:
        tree["confidence"] = fitted.confidence.model_dump(exclude_defaults=True)
    if fitted.pair_weight is not None:
        tree["pair_weight"] = fitted.pair_weight.model_dump(exclude_none=True)
    if fitted.posterior is not None:
        tree["posterior"] = fitted.posterior.model_dump()
    return yaml.safe_dump(tree, sort_keys=False)

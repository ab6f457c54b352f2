"""`pseudoris refilter`: writes another run from a finished run's scores, without a model. Called by `main`.

`store/sessions/refiltered_run` does the work; here the options are read. An absent option changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from pseudoris.cli import options
from pseudoris.cli.console import note, stdout
from pseudoris.cli.formats import add_clauses, add_written, facts_table, next_lines
from pseudoris.cli.options import argument, option
from pseudoris.cli.progress import write_with_bar
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import validate
from pseudoris.schemas.fitted import FittedConfig
from pseudoris.schemas.keep_rule import COMPOSED_KINDS, SCORE_COLUMNS, LoneMasks, parse_conditions
from pseudoris.store.runs.header import check_alike, require_header
from pseudoris.store.runs.planned_run import ACCEPTED
from pseudoris.store.sessions.refiltered_run import RefilterSummary, RuleChange
from pseudoris.store.sessions.refiltered_run import refilter as run_refilter
from pseudoris.store.sessions.thread_executor import DEFAULT_THREADS

NO_CONDITION = "none"

Keep = Annotated[
    list[str] | None,
    option(
        "--keep",
        "Keep only expressions that also meet this condition, for example 'correctness > 0.2'. Can be "
        f"repeated. Columns: {', '.join(SCORE_COLUMNS)}; of composed expressions, their kind stands for the "
        f"confidence, as in 'position > 0.9': {', '.join(COMPOSED_KINDS)}. Default: the conditions of OUT; those on "
        f"scores and those on kinds are replaced apart. '{NO_CONDITION}' removes all.",
    ),
]
Lone = Annotated[
    LoneMasks | None,
    option(
        "Captions of a mask that is alone in its image, which no tau can judge: keep all, drop all, or keep "
        "the better half of its draws by correctness. Default: the rule of OUT."
    ),
]
Weights = Annotated[
    Path | None,
    option(
        "Fitted file, as `pseudoris calibrate --to` writes it: set the column weight by its `pair_weight`, and "
        "compose anew by its `posterior`. Default: as in OUT."
    ),
]
Composing = Annotated[
    list[str] | None,
    option(
        "--set",
        "Compose anew with a setting of composing, such as composing.min_further=0.95. Can be repeated.",
        metavar="KEY=VALUE",
    ),
]


def refilter(
    out: options.Out,
    new: Annotated[str, argument("NEW", "Folder or url for the new run.")],
    tau: Annotated[
        float | None, option("Keep expressions with a distinctiveness above this. Default: the tau of OUT.", min=0.0)
    ] = None,
    keep: Keep = None,
    lone_masks: Lone = None,
    weights: Weights = None,
    assignments: Composing = None,
    accuracy: Annotated[
        float | None,
        option(
            "Choose the loosest rule whose accuracy is shown to be at least this, by the verdicts of --audit.",
            min=0.01,
            max=0.999,
        ),
    ] = None,
    audit: Annotated[str | None, option("--audit", "Judged audit of OUT. Needs --accuracy.", metavar="AUDIT")] = None,
    threads: options.ShardsAtOnce = DEFAULT_THREADS,
    allow_mixed: Annotated[
        bool, option("--allow-mixed", "Continue with other package versions than NEW began with.")
    ] = False,
    repair: options.Repair = False,
) -> None:
    """Write a new run by another keep rule or composer, of stored scores. No model runs."""
    from pseudoris.workers.composing.composer import composer_of

    parent, target = RunLocation.open(out), RunLocation.open(new)
    conditions = None if keep is None else () if keep == [NO_CONDITION] else parse_conditions(keep)
    change = RuleChange(tau, conditions, lone_masks)
    if (accuracy is None) != (audit is None):
        text = "--accuracy and --audit need each other: the verdicts of an audit choose the rule. Give both."
        raise ConfigError(text)
    if accuracy is not None and audit is not None:
        if change != RuleChange():
            raise ConfigError("--accuracy chooses the rule: leave --tau, --keep and --lone-masks out.")
        from pseudoris.cli.audit_report import audited_change

        change = audited_change(parent, audit, accuracy)
    if weights is not None:
        change = replace(change, fitted=_fitted(parent, weights))
    change = replace(change, composing=assignments or ())
    write = partial(run_refilter, parent, target, change, composer_of=composer_of, num_threads=threads)
    write = partial(write, allow_mixed=allow_mixed, is_repair=repair)
    _print(new, write_with_bar(target, write, before="reading the parent", during="refiltering images"))


def _fitted(parent: RunLocation, file: Path) -> FittedConfig:
    header = require_header(parent)
    check_alike(parent, header, "--weights")
    header = header.runs[0]
    tree = header.config.model_dump(mode="json")
    before = header.config.filtering.fitted_values
    tree["filtering"]["fitted"] = {"uri": str(file)}
    found = validate(tree).filtering.fitted
    if found is None or (found.values.pair_weight, found.values.posterior) in ((None, None), (None, before.posterior)):
        raise ConfigError(
            f"--weights {file} holds no pair_weight, and no other posterior than {parent.root}: it would change nothing"
        )
    others = found.values.other_models(header.identity.weights)
    if others or found.values.confidence != before.confidence:
        what, remedy = "another confidence", f"Annotate with --set filtering.fitted.uri={file}"
        if others:
            what, remedy = f"other models ({', '.join(others)})", f"Fit it anew: pseudoris calibrate {parent.root}"
        raise ConfigError(f"--weights {file} was fitted with {what} than {parent.root} has. {remedy}")
    return found


def _print(new: str, found: RefilterSummary) -> None:
    table = facts_table(f"{new}: complete")
    add_clauses(table, found.clauses)
    table.add_row("the parent", f"kept {found.num_kept_before:,} expressions of the same images and masks")
    add_written(table, found)
    stdout.print(table, soft_wrap=True)
    for line in found.accepted:
        note(f"{ACCEPTED}{line}")
    stdout.print(next_lines(new), soft_wrap=True)

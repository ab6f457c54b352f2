"""`pseudoris refilter`: another run out of a finished one's scores, in seconds and without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.draw_files import keeps_no_others, num_unseen
from pseudoris.audit.judged_pairs import apply_to, join_answers, rater_checks
from pseudoris.audit.rule_search import RuleChoice, SequencedRule, choose_rule, rule_sequence
from pseudoris.cli import options
from pseudoris.cli.audit_report import DRAW_AGAIN
from pseudoris.cli.console import (
    columns_table,
    command,
    facts_table,
    format_bytes,
    kept_text,
    path_lines,
    report,
    stdout,
)
from pseudoris.cli.options import local_folder
from pseudoris.cli.progress import write_with_bar
from pseudoris.schemas.audit_records import AuditRecord
from pseudoris.schemas.confidence import PairWeightConfig
from pseudoris.schemas.config_layers import lay_over, validate
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.keep_rule import SCORE_COLUMNS, KeepCondition, LoneMasks, parse_conditions
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.refiltered_run import DEFAULT_THREADS, RefilterSummary, RuleChange
from pseudoris.store.runs.refiltered_run import refilter as run_refilter
from pseudoris.store.tables.judged_expressions import stated_rule

NO_CONDITION = "none"


def refilter(
    out: options.Out,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Folder or url for the new run.")],
    tau: Annotated[
        float | None,
        typer.Option(min=0.0, help="Keep expressions with a distinctiveness above this. Default: the tau of OUT."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            help="Keep only expressions that also meet this condition, for example 'correctness > 0.2'. Can be "
            f"repeated. Columns: {', '.join(SCORE_COLUMNS)}. Default: the conditions of OUT; '{NO_CONDITION}' "
            "removes them.",
        ),
    ] = None,
    lone_masks: Annotated[
        LoneMasks | None,
        typer.Option(
            help="Captions of a mask that is alone in its image, which no tau can judge: keep all, drop all, or keep "
            "the better half of its draws by correctness. Default: the rule of OUT."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with a `filtering.pair_weight`, as `pseudoris calibrate --to` writes it: set the column "
            "weight by it. Default: as in OUT."
        ),
    ] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=0.999,
            help="Choose the loosest rule whose accuracy is shown to be at least this, by the verdicts of --audit.",
        ),
    ] = None,
    audit: Annotated[
        str | None, typer.Option("--audit", metavar="AUDIT", help="Judged audit of OUT. Needs --accuracy.")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, max=64, help="Number of shards at once; each is held in memory.")
    ] = DEFAULT_THREADS,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Continue with other package versions than NEW began with.")
    ] = False,
) -> None:
    """Write a new run with another keep rule, from the stored scores. No model runs."""
    parent, target = RunLocation.open(out), RunLocation.open(new)
    change = RuleChange(tau, _conditions(keep), lone_masks)
    if accuracy is not None or audit is not None:
        change = _audited(parent, change, accuracy, audit)
    if weights is not None:
        change = replace(change, pair_weight=_pair_weight(parent, weights))
    _print(out, new, _written(parent, target, change, threads=threads, allow_mixed=allow_mixed))


def _written(
    parent: RunLocation, target: RunLocation, change: RuleChange, *, threads: int, allow_mixed: bool
) -> RefilterSummary:
    return write_with_bar(
        target,
        lambda on_progress, on_notice: run_refilter(
            parent,
            target,
            change,
            num_threads=threads,
            allow_mixed=allow_mixed,
            on_progress=on_progress,
            on_notice=on_notice,
        ),
        before="reading the parent",
        during="refiltering shards",
    )


def _audited(parent: RunLocation, change: RuleChange, accuracy: float | None, audit: str | None) -> RuleChange:
    if accuracy is None or audit is None:
        raise ConfigError(
            "--accuracy and --audit need each other: the verdicts of an audit choose the rule. Give both."
        )
    if change != RuleChange():
        raise ConfigError("--accuracy chooses the rule: leave --tau, --keep and --lone-masks out.")
    from pseudoris.cli.refilter import audited_change

    return audited_change(parent, audit, accuracy)


def _pair_weight(parent: RunLocation, file: Path) -> PairWeightConfig:
    before = require_header(parent).config
    filtering = validate(lay_over(before.model_dump(mode="json"), file)).filtering
    if filtering.pair_weight is None:
        raise ConfigError(f"--weights {file} holds no filtering.pair_weight. `pseudoris calibrate` writes it")
    if filtering.confidence != before.filtering.confidence:
        raise ConfigError(
            f"--weights {file} was fitted with another filtering.confidence than {parent.root} has. Annotate with "
            "--config and this file"
        )
    return filtering.pair_weight


def _conditions(words: Sequence[str] | None) -> tuple[KeepCondition, ...] | None:
    """Return the conditions of `--keep` words; None for None, nothing for the one word `none`."""
    if words is None:
        return None
    return () if list(words) == [NO_CONDITION] else parse_conditions(words)


def _print(out: str, new: str, found: RefilterSummary) -> None:
    stdout.print(_view(new, found), soft_wrap=True)
    for line in found.accepted:
        report("note", f"not byte-reproducible (accepted by --allow-mixed): {line}", "yellow")
    stdout.print(
        path_lines("next", {"check": command("verify", new), "figures": command("stats", new)}), soft_wrap=True
    )


def _view(new: str, found: RefilterSummary) -> Table:
    totals = found.totals
    table = facts_table(f"{new}: complete")
    table.add_row("keeps", str(found.rule))
    before = f"the parent kept {found.num_kept_before:,}"
    kept = kept_text(totals.kept, totals.kept_lone, num_candidates=totals.expressions)
    table.add_row("kept expressions", f"{kept}; {before}")
    table.add_row("images, masks", f"{totals.images:,}, {totals.masks:,}: as in the parent")
    earlier = f", {found.num_shards_before:,} of them by an earlier call" if found.num_shards_before else ""
    table.add_row("shards", f"{totals.shards:,}{earlier}")
    table.add_row("output", format_bytes(totals.output_bytes))
    return table


_DIGITS: Final = 4


def audited_change(parent: RunLocation, audit: str, accuracy: float) -> RuleChange:
    """Return the change of rule that reaches an accuracy, by the verdicts of an audit; prints what was tested.

    Raises:
        ConfigError: The audit is of another run, no verdict was given, or no rule is shown to be accurate enough.
        TransientError: Storage failed.
    """
    folder = AuditFolder.open(local_folder(audit))
    header = require_header(parent)
    rule = stated_rule(header)
    if rule is None:
        raise ConfigError(f"no score decides what {parent.root} keeps: there is no rule to choose")
    applied = apply_to(parent, folder)
    if not applied.has_same_pairs:
        raise ConfigError(
            f"{parent.root} has other pairs than the run that {audit} was drawn from ({applied.num_same:,} of "
            f"{applied.num_asked:,} are the same): draw and judge an audit of it"
        )
    answers = folder.answers()
    judged = applied.judged(join_answers(folder, answers))
    rules = _seen(folder, header, rule_sequence(folder, judged, rule))
    choice = choose_rule(
        judged,
        [each.keeps for each in rules],
        [each.name for each in rules],
        target=accuracy,
        checks=rater_checks(judged, answers),
    )
    stdout.print(_choice_view(choice))
    if choice.chosen is None:
        raise ConfigError(_why_not(choice, is_judged=bool(judged.is_judged[judged.is_drawn].all())))
    chosen = rules[choice.chosen]
    report("chosen", f"{chosen.name}: accuracy of at least {accuracy:g}, shown at 95 %", "green")
    (tested,) = (each for each in choice.tested if each.name == chosen.name)
    record = AuditRecord(
        draw=folder.draw.digest,
        run_root=folder.draw.run.root_sha256,
        raters=len(answers),
        verdicts=tested.num,
        target=accuracy,
        rule=chosen.name,
        accuracy=round(tested.estimate, _DIGITS),
        at_least=round(tested.low, _DIGITS),
    )
    return RuleChange(chosen.rule.tau, chosen.rule.conditions, audit=record)


def _seen(audit: AuditFolder, header: RunHeader, rules: list[SequencedRule]) -> list[SequencedRule]:
    """Return the rules that keep nothing of a stratum without a draw."""
    drawn = audit.draw.run
    kept_no_others = [keeps_no_others(header, each.rule, drawn) for each in rules]
    unseen = [num_unseen(audit.draw, keeps_no_others=each) for each in kept_no_others]
    found = [each for each, number in zip(rules, unseen, strict=True) if not number]
    if not found:
        raise ConfigError(
            f"even the strictest rule may keep {min(unseen):,} pairs of strata that {audit.path} has no pair of. "
            f"{DRAW_AGAIN}"
        )
    if len(found) < len(rules):
        report(
            "note", f"Rules looser than {drawn.rule} are not tried: no pair was drawn of some that they keep.", "yellow"
        )
    return found


def _choice_view(choice: RuleChoice) -> Table:
    table = columns_table(("rule, strict to loose", "verdicts", "accuracy", "at least", ""))
    for each in choice.tested:
        said = f"{each.estimate:.3f}" if each.num else "–"
        verdict = "" if each.passes else "too few verdicts" if each.num < choice.least else "not shown"
        table.add_row(each.name, f"{each.num:,}", said, f"{each.low:.3f}", verdict)
    return table


def _why_not(choice: RuleChoice, *, is_judged: bool) -> str:
    text = f"no rule is shown to reach an accuracy of {choice.target:g}"
    remedy = "draw a larger audit" if is_judged else "finish this audit, or draw a larger one"
    (tested,) = choice.tested
    if tested.num < choice.least:
        return (
            f"{text}. It takes at least {choice.least:,} verdicts on what a rule keeps, all of them right, and there "
            f"are {tested.num:,}: {remedy}, or aim lower"
        )
    if choice.more is None:
        return f"{text}, and none looks as if it would. Aim lower, or calibrate the confidence first"
    return (
        f"{text}. If accuracies are as they look, it would take about {choice.more:,} more verdicts: {remedy}, or aim "
        "lower"
    )

"""What an audit says: `pseudoris audit report`, its citation, and the rule that `refilter --accuracy` takes.

That is the loosest rule that the audit shows to be accurate enough.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.draw_files import keeps_no_others, num_unseen
from pseudoris.audit.figures import AuditFigures, BoundedFigure
from pseudoris.audit.intervals import LEAST_CHECKED, Interval
from pseudoris.audit.judged_pairs import apply_to, join_answers, rater_checks
from pseudoris.audit.rule_search import RuleChoice, SequencedRule, choose_rule, rule_sequence
from pseudoris.cli.console import columns_table, report, stdout
from pseudoris.cli.options import local_folder
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import AuditRecord, CitedAudit, JudgedShare, RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.reports.data_card import root_of, write_citation, write_datacard
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.refiltered_run import RuleChange
from pseudoris.store.tables.judged_expressions import stated_rule

# Of pairs that a run keeps, or a rule would keep, and of which none was drawn.
DRAW_AGAIN = "Draw another audit with a larger -n, or a larger --unkept"
_NONE = "–"
_DIGITS = 4


def print_report(audit: AuditFolder, figures: AuditFigures) -> None:
    """Print all figures of an audit, and notes on what they leave open."""
    rows = [*map(_cells, (figures.accuracy, figures.masks, figures.unkept, figures.missed, figures.with_missed))]
    if figures.corrected is not None:
        rows.insert(1, (*_interval("  corrected for raters' errors", figures.corrected.share), "", ""))
    tables = {"figure": rows, "right, by kind": map(_cells, figures.by_kind)}
    tables["right, by stratum"] = map(_cells, figures.strata)
    tables["verdicts on the kept"] = map(_cells, figures.kinds)
    stdout.print(f"{figures.num_judged:,} of {figures.num_drawn:,} pairs judged; 95 % intervals")
    for name, cells in tables.items():
        stdout.print(columns_table((name, "estimate", "interval", "if undecided are\nwrong … right", "from"), cells))
    for note in notes(audit, figures):
        report("note", note, "yellow")


def cite(audit: AuditFolder, figures: AuditFigures) -> None:
    """Write the figures into the data card of the run that they speak about."""
    applied, drawn = figures.applied, audit.draw.run
    location = RunLocation.open(drawn.location if applied is None else applied.location)
    root = root_of(location)
    if applied is None and root != drawn.root_sha256:
        raise ConfigError(f"{location.root} has changed since the audit was drawn. Give its address with --out-run")
    if applied is not None and not applied.has_same_pairs:
        raise ConfigError(f"{location.root} has other pairs than the drawn run: the figures do not speak about it")
    if figures.num_unseen:
        raise ConfigError(
            f"{location.root} may keep up to {figures.num_unseen:,} pairs of strata that {audit.path} has no pair of: "
            f"{'; '.join(figures.undrawn)}. {DRAW_AGAIN}"
        )
    if figures.accuracy.value.estimate is None:
        raise ConfigError(f"no kept pair of {audit.path} was judged yet: there is nothing to cite")
    accuracy = figures.accuracy
    citation = CitedAudit(
        draw=audit.draw.digest,
        run_root=root,
        raters=len(figures.raters),
        num_judged=figures.num_judged,
        num_drawn=figures.num_drawn,
        accuracy=_judged_share(accuracy.value),
        undecided=accuracy.num_undecided,
        worst=round(accuracy.worst.estimate or 0.0, _DIGITS),
        best=round(accuracy.best.estimate or 0.0, _DIGITS),
        corrected=None if figures.corrected is None else _judged_share(figures.corrected.share),
        masks=_judged_share(figures.masks.value),
    )
    write_citation(location, citation)
    report("cited", location.uri(write_datacard(location)), "green")


def _judged_share(interval: Interval) -> JudgedShare:
    value, low, high = (round(each or 0.0, _DIGITS) for each in (interval.estimate, interval.low, interval.high))
    return JudgedShare(value=value, low=low, high=high)


def notes(audit: AuditFolder, figures: AuditFigures) -> Iterable[str]:
    """Yield what a reader of the figures must know."""
    if figures.applied is not None:
        applied = figures.applied
        yield (
            f"Applied to {applied.location}: {applied.num_same:,} of {applied.num_asked:,} pairs are the same, and it "
            f"keeps {applied.num_kept:,} of them."
        )
        if not applied.has_same_pairs:
            yield "It holds other pairs than the drawn run. The figures speak about the pairs that both have."
    if figures.num_judged < figures.num_drawn:
        yield f"{figures.num_drawn - figures.num_judged:,} pairs have no verdict yet. The figures are provisional."
    yield from _left_out(figures)
    checked = figures.checks.num_twice
    if checked < LEAST_CHECKED:
        yield (
            f"Raters' errors are not corrected for: two raters judged {checked:,} pairs, {LEAST_CHECKED} are needed. "
            "With 5 % of wrong verdicts an accuracy of 0.97 looks like 0.92."
        )
    elif figures.error is not None and figures.error.estimate is not None:
        error = figures.error
        yield (
            f"Raters err on {error.estimate:.1%} of the pairs [{error.low:.1%}, {error.high:.1%}], if they err "
            "both ways alike."
        )
        if figures.corrected is None:
            yield "They differ too often for a correction. Talk about what right means, and judge again."
    if not audit.draw.run.is_complete:
        yield "The run was not finished when it was drawn from. The figures speak about the shards of that time."


def _left_out(figures: AuditFigures) -> Iterable[str]:
    if figures.unreached:
        yield f"The figures leave out the strata that have no verdict yet: {', '.join(figures.unreached)}."
    if figures.undrawn:
        yield f"The figures leave out the strata that no pair was drawn from: {'; '.join(figures.undrawn)}."
    if figures.num_unseen:
        yield (
            f"The run may keep up to {figures.num_unseen:,} pairs of these: its accuracy may be another. {DRAW_AGAIN}."
        )


def _cells(figure: BoundedFigure) -> tuple[str, ...]:
    bounds = ""
    if figure.num_undecided and figure.worst.estimate is not None and figure.best.estimate is not None:
        bounds = f"{figure.worst.estimate:.3f} … {figure.best.estimate:.3f} ({figure.num_undecided})"
    return (*_interval(figure.name, figure.value), bounds, f"{figure.num:,}" if figure.num else _NONE)


def _interval(name: str, value: Interval) -> tuple[str, str, str]:
    if value.estimate is None:
        return name, _NONE, _NONE
    return name, f"{value.estimate:.3f}", f"{value.low:.3f} to {value.high:.3f}"


def audited_change(parent: RunLocation, audit: str, accuracy: float) -> RuleChange:
    """Return the change of rule that reaches an accuracy, by the verdicts of an audit; prints what was tested."""
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

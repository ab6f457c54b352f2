"""Prints the figures of an audit, cites them in a data card, and chooses a keep rule by its verdicts.

Called by `audit` (`audit report`), `refilter` (`--accuracy`), `evaluate` (`calibrate --audit`) and examples. Verdicts
count only for a run that has their pairs, and no figure speaks about a stratum that no pair was drawn of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
from rich.table import Table

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.draw_files import DRAWN, STORED_SCORES, keeps_no_others, num_unseen
from pseudoris.audit.figures import AuditFigures, BoundedFigure
from pseudoris.audit.intervals import LEAST_CHECKED, RaterChecks, error_interval
from pseudoris.audit.judged_pairs import JudgedPairs, apply_to, fitted_pair_weights, join_answers, rater_checks
from pseudoris.audit.rule_search import (
    COMPOSED_START_ERRORS,
    START_ERRORS,
    RuleChoice,
    SequencedRule,
    choose_rules,
    composed_groups,
    composed_sequence,
    judged_rule,
    rule_sequence,
    with_bounds,
)
from pseudoris.cli.console import note, report, stdout
from pseudoris.cli.formats import columns_table
from pseudoris.cli.options import local_folder
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.audit_records import AuditRecord, CitedAudit, JudgedShare
from pseudoris.schemas.estimate import Estimate
from pseudoris.schemas.fitted import PairWeightConfig
from pseudoris.schemas.keep_rule import COMPOSED_KINDS, KeepCondition
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.reports.data_card import root_of, write_citation, write_datacard
from pseudoris.store.runs.header import check_alike
from pseudoris.store.sessions.refiltered_run import RuleChange
from pseudoris.store.tables.judged_expressions import stated_rule
from pseudoris.store.tables.open_run import OpenRun

# An error gives this remedy if a stratum that the run, or a rule, keeps has no drawn pair.
DRAW_AGAIN = "Draw another audit with a larger -n, or a larger --unkept"
_NONE = "–"
_DIGITS = 4


def print_report(audit: AuditFolder, figures: AuditFigures) -> None:
    """Print all figures of an audit, and notes on what they leave open."""
    of_one = () if figures.one_mask is None else (figures.one_mask,)
    rows = [
        *map(_cells, (figures.accuracy, *of_one, figures.masks, figures.unkept, figures.missed, figures.with_missed))
    ]
    if figures.corrected is not None:
        rows.insert(1, (*_interval("  corrected for raters' errors", figures.corrected.share), "", ""))
    tables = {"figure": rows, "right, by kind": map(_cells, figures.by_kind)}
    tables["right, by stratum"] = map(_cells, figures.strata)
    tables["verdicts on the kept"] = map(_cells, figures.kinds)
    stdout.print(f"{figures.num_judged:,} of {figures.num_drawn:,} pairs judged; 95 % intervals")
    for name, cells in tables.items():
        stdout.print(columns_table((name, "estimate", "interval", "if undecided are\nwrong … right", "from"), cells))
    for line in notes(audit, figures):
        note(line)


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
    if not (figures.accuracy.estimate.is_known and figures.masks.estimate.is_known):
        raise ConfigError(f"no kept pair of one mask of {audit.path} was judged yet: there is nothing to cite")
    accuracy = figures.accuracy
    citation = CitedAudit(
        draw=audit.draw.digest,
        run_root=root,
        raters=len(figures.raters),
        num_judged=figures.num_judged,
        num_drawn=figures.num_drawn,
        accuracy=_judged_share(accuracy.estimate),
        undecided=accuracy.num_undecided,
        worst=round(accuracy.worst.value, _DIGITS),
        best=round(accuracy.best.value, _DIGITS),
        corrected=None if figures.corrected is None else _judged_share(figures.corrected.share),
        masks=_judged_share(figures.masks.estimate),
    )
    write_citation(location, citation)
    report("cited", location.uri(write_datacard(location)), "green")


def _judged_share(found: Estimate) -> JudgedShare:
    return JudgedShare(**asdict(found.each(lambda share: round(share, _DIGITS))))


def notes(audit: AuditFolder, figures: AuditFigures) -> Iterable[str]:
    """Yield what a reader of the figures must know."""
    if (applied := figures.applied) is not None:
        yield (
            f"Applied to {applied.location}: {applied.num_same:,} of {applied.num_asked:,} pairs are the same, and it "
            f"keeps {applied.num_kept:,} of them."
        )
        if not applied.has_same_pairs:
            yield "It holds other pairs than the drawn run. The figures speak about the pairs that both have."
    if figures.num_judged < figures.num_drawn:
        yield f"{figures.num_drawn - figures.num_judged:,} pairs have no verdict yet. The figures are provisional."
    left_out = {
        "have no verdict yet": ", ".join(figures.unreached),
        "no pair was drawn from": "; ".join(figures.undrawn),
    }
    yield from (f"The figures leave out the strata that {why}: {names}." for why, names in left_out.items() if names)
    if number := figures.num_unseen:
        yield f"The run may keep up to {number:,} pairs of these: its accuracy may be another. {DRAW_AGAIN}."
    checked = figures.checks.num_twice
    if checked < LEAST_CHECKED:
        yield (
            f"Raters' errors are not corrected for: two raters judged {checked:,} pairs, {LEAST_CHECKED} are needed. "
            "With 5 % of wrong verdicts an accuracy of 0.97 looks like 0.92."
        )
    elif (error := figures.error) is not None:
        yield (
            f"Raters err on {error.value:.1%} of the pairs [{error.low:.1%}, {error.high:.1%}], if they err "
            "both ways alike."
        )
        if figures.corrected is None:
            yield "They differ too often for a correction. Talk about what right means, and judge again."
    if not audit.draw.run.is_complete:
        yield "The run was not finished when it was drawn from. The figures speak about the shards of that time."


def _cells(figure: BoundedFigure) -> tuple[str, ...]:
    bounds = ""
    if figure.num_undecided and figure.worst.is_known and figure.best.is_known:
        bounds = f"{figure.worst.value:.3f} … {figure.best.value:.3f} ({figure.num_undecided})"
    return (*_interval(figure.name, figure.estimate), bounds, f"{figure.num:,}" if figure.num else _NONE)


def _interval(name: str, found: Estimate) -> tuple[str, str, str]:
    return name, found.value_text(3), f"{found.low:.3f} to {found.high:.3f}" if found.is_known else _NONE


def audited_change(parent: RunLocation, audit: str, accuracy: float) -> RuleChange:
    """Return the change of rule that reaches an accuracy, by the verdicts of an audit; prints what was tested."""
    run = OpenRun.at(parent)
    check_alike(parent, run.header, "--accuracy")
    rule = stated_rule(run.header)
    if rule is None:
        raise ConfigError(f"no score decides what {parent.root} keeps: there is no rule to choose")
    columns = {each.column for each in rule.conditions} - {*STORED_SCORES, *COMPOSED_KINDS}
    if columns:
        raise ConfigError(f"an audit does not hold {min(columns)}: refilter without the condition on it first")
    folder, judged, checks, num_raters = _judged_of(run, audit)
    groups, chosen = composed_groups(judged), list[SequencedRule]()
    # Kept pairs without a score stay kept under every rule.
    others = judged.is_kept & ~np.isin(judged.kind, (DRAWN, *COMPOSED_KINDS))
    sequences, refused, lows = list[list[SequencedRule]](), list[RuleChoice](), list[float]()
    is_drawn = judged.kind == DRAWN
    # A search for drawn pairs of which none is kept would take its share of the 5 % from what is composed.
    is_searched = is_drawn.any() and (not groups or (is_drawn & judged.is_kept).any())
    try:
        sequences += [rule_sequence(folder, judged, rule)] if is_searched else []
    except ConfigError as error:
        if not groups or others.any():
            raise
        note(f"Nothing drawn is kept: {error}.")
    if is_drawn.any() and not sequences:
        chosen.append(_keeping_none(SequencedRule("", rule, np.zeros_like(judged.is_kept))))
    confidence = np.array(folder.pairs["confidence"].to_pylist(), np.float64)
    sequences += [composed_sequence(judged, confidence, rule, kinds) for kinds in groups]
    seen = [_seen(folder, run.header, sequence) for sequence in sequences]
    searches = [[(each.name, each.keeps) for each in rules] for rules in seen]
    errors = COMPOSED_START_ERRORS if groups else START_ERRORS
    choices = choose_rules(judged, searches, target=accuracy, checks=checks, start_errors=errors)
    for rules, choice in zip(seen, choices, strict=True):
        stdout.print(_choice_view(choice))
        if choice.chosen is None:
            refused.append(choice)
            chosen.append(_keeping_none(rules[0]))
        else:
            chosen.append(rules[choice.chosen])
            lows += [each.low for each in choice.tested if each.name == chosen[-1].name]
    if not lows or (refused and others.any()):
        nearest = max(refused, key=lambda choice: choice.tested[-1].low)
        raise ConfigError(_why_not(nearest, is_judged=bool(judged.is_judged[judged.is_drawn].all())))
    named = "; ".join(each.name for each in chosen)
    report("chosen", f"{named}: accuracy of at least {accuracy:g}, shown at 95 %", "green")
    for choice in refused:
        note(f"Nothing is kept by {choice.tested[0].name}: {_why_not(choice, is_judged=False)}.")
    tested = judged_rule(judged, named, np.any([each.keeps for each in chosen], axis=0), target=accuracy, checks=checks)
    record = AuditRecord(
        draw=folder.draw.digest,
        run_root=folder.draw.run.root_sha256,
        raters=num_raters,
        verdicts=tested.num,
        target=accuracy,
        rule=named,
        accuracy=round(tested.estimate, _DIGITS),
        at_least=round(min(*lows, tested.low), _DIGITS),
    )
    bounds = with_bounds(rule.conditions, [bound for each in chosen for bound in each.bounds])
    return RuleChange(chosen[0].rule.tau, bounds, audit=record)


def _judged_of(run: OpenRun, audit: str) -> tuple[AuditFolder, JudgedPairs, RaterChecks, int]:
    """Return an audit with its verdicts as a run sees them, what was judged twice, and the number of raters.

    Raises:
        ConfigError: The run has other pairs than the drawn one.
    """
    folder = AuditFolder.open(local_folder(audit))
    answers, applied = folder.answers(), apply_to(run, folder)
    if not applied.has_same_pairs:
        drawn = folder.draw.run
        raise ConfigError(
            f"{run.location.root} has other pairs than the run that {folder.path} was drawn from ({drawn.location}, "
            f"{drawn.header_sha256[:12]}…; {applied.num_same:,} of {applied.num_asked:,} are the same): draw and judge "
            "an audit of it"
        )
    judged = applied.judged(join_answers(folder, answers))
    return folder, judged, rater_checks(judged, answers), len(answers)


def lines_of_audit(run: OpenRun, audit: str) -> PairWeightConfig:
    """Return the lines from confidence to the column weight that an audit's verdicts give; prints them."""
    folder, judged, checks, _ = _judged_of(run, audit)
    error = error_interval(checks).value if checks.num_twice >= LEAST_CHECKED else 0.0
    lines = fitted_pair_weights(judged, np.array(folder.pairs["confidence"].to_pylist(), np.float64), error)
    for name, line in (("drawn", lines.drawn), ("composed", lines.composed)):
        if line is not None:
            report("fitted", f"{name}: bias {line.bias:g}, slope {line.slope:g}", "green")
    return lines


def _keeping_none(rule: SequencedRule) -> SequencedRule:
    """Return a rule that keeps nothing of what `rule` bounds."""
    kinds = [each.column for each in rule.bounds if each.column in COMPOSED_KINDS]
    words = [f"{kind} > 1" for kind in kinds] or ["count < 0"]
    bounds = tuple(KeepCondition.model_validate(each) for each in words)
    return SequencedRule(f"no {' or '.join(kinds) or 'drawn caption'}", rule.rule, np.zeros_like(rule.keeps), bounds)


def _seen(audit: AuditFolder, header: RunHeader, rules: list[SequencedRule]) -> list[SequencedRule]:
    """Return the rules that keep nothing of a stratum without a draw."""
    drawn = audit.draw.run
    unseen = [num_unseen(audit.draw, keeps_no_others=keeps_no_others(header, each.rule, drawn)) for each in rules]
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

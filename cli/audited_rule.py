"""The rule that `pseudoris refilter --accuracy` takes: the loosest that an audit shows to be accurate enough."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.draw_files import keeps_no_others, num_unseen
from pseudoris.audit.judged_pairs import apply_to, join_answers, rater_checks
from pseudoris.audit.rule_search import RuleChoice, SequencedRule, choose_rule, rule_sequence
from pseudoris.cli.audit_report import DRAW_AGAIN
from pseudoris.cli.console import report, stdout
from pseudoris.cli.options import local_folder
from pseudoris.schemas.audit_records import AuditRecord
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.refiltered_run import RuleChange
from pseudoris.store.tables.judged_expressions import stated_rule

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
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("rule, strict to loose", "verdicts", "accuracy", "at least", ""):
        table.add_column(name, justify="left" if name.startswith("rule") else "right", no_wrap=True)
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

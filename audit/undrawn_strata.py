"""Strata of which no pair was drawn: no verdict speaks about what a run or a rule keeps of them."""

from __future__ import annotations

from collections.abc import Sequence

from pseudoris.audit.draw_record import DrawnRun, DrawRecord, Stratum
from pseudoris.audit.strata import WITHOUT_SCORE
from pseudoris.schemas.keep_rule import KeepCondition, KeepRule
from pseudoris.schemas.run_records import RunHeader


def undrawn_strata(draw: DrawRecord) -> tuple[Stratum, ...]:
    """Return the strata that hold pairs, none of which was drawn."""
    return tuple(stratum for stratum in draw.strata if not stratum.num_drawn)


def num_unseen(draw: DrawRecord, *, keeps_no_others: bool) -> int:
    """Return how many pairs a run or a rule keeps, or may keep, of strata without a draw.

    What the drawn run does not keep, and has no score, no other rule keeps: composed and human expressions, groups.

    Args:
        draw: The draw.
        keeps_no_others: Whether all that it keeps is kept by the drawn run too; see `keeps_no_others`.
    """
    return sum(
        stratum.num_units
        for stratum in undrawn_strata(draw)
        if stratum.is_kept or not (keeps_no_others or stratum.name.endswith(WITHOUT_SCORE))
    )


def keeps_no_others(header: RunHeader, rule: KeepRule | None, drawn: DrawnRun) -> bool:
    """Return whether a rule is known to keep nothing that the drawn run does not keep.

    Args:
        header: Of the run whose scores the rule bounds: the drawn one, or a refilter of it, which has the same scores.
        rule: The rule; None if no score decides.
        drawn: The run that was drawn from.
    """
    is_drawn = header.created_utc == drawn.created_utc
    has_its_scores = is_drawn or (header.parent is not None and header.parent.created_utc == drawn.created_utc)
    if rule is None or drawn.rule is None:
        return is_drawn
    return has_its_scores and _is_as_strict(str(rule), drawn.rule)


def _is_as_strict(rule: str, other: str) -> bool:
    """Compare rules in the words that a draw records them in: each bound of the other has one as strict beside it."""
    words, _, lone = rule.partition(";")
    others, _, other_lone = other.partition(";")
    if words == others and lone == other_lone:
        return True
    try:
        mine, theirs = _conditions(words), _conditions(others)
    except ValueError:
        # The tau of another package's scorer is not known.
        return False
    is_lone_as_strict = lone == other_lone or not other_lone or lone.endswith(" drop")
    return is_lone_as_strict and all(any(_implies(each, bound) for each in mine) for bound in theirs)


def _conditions(words: str) -> Sequence[KeepCondition]:
    return [KeepCondition.model_validate(word) for word in words.split(" and ")]


def _implies(condition: KeepCondition, other: KeepCondition) -> bool:
    is_same_kind = (condition.column, condition.comparison) == (other.column, other.comparison)
    is_upper = other.comparison.startswith("<")
    return is_same_kind and (condition.bound <= other.bound if is_upper else condition.bound >= other.bound)

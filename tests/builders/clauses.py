"""Evaluates what a run says that it keeps by the texts of its clauses alone, by no code of the rule's."""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from collections.abc import Sequence

from pseudoris.store.tables.kept_clauses import (
    AS_ITS_ENGINE,
    BETTER_HALF,
    LONE_MASK,
    NO_ONE_MASK,
    ONE_OF_SEVERAL,
    REFERENT,
    KeptClause,
)

COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def sort_of(row: dict) -> tuple[str, str]:
    """Return source and kind of a row as clauses name them."""
    if row["source"] != "model":
        return row["source"], row["kind"] if row["source"] == "composer" else ""
    if len(row["target_mask_ids"]) != 1:
        return "model", NO_ONE_MASK
    return "model", LONE_MASK if row["distinctiveness"] is None else ONE_OF_SEVERAL


def clause_of(clauses: Sequence[KeptClause], row: dict) -> KeptClause:
    """Return the one clause that the row falls under."""
    source, kind = sort_of(row)
    (found,) = (each for each in clauses if each.source == source and (not each.kinds or kind in each.kinds))
    return found


def better_half(rows: list[dict]) -> set[int]:
    """Return the places of rows of lone masks with a draw in the better half of their mask's."""
    of_mask = defaultdict(list)
    for place, row in enumerate(rows):
        if sort_of(row) == ("model", LONE_MASK):
            of_mask[row["target_mask_ids"][0]].append(place)
    found = set()
    for places in of_mask.values():
        worst = float("-inf")
        draws = [at for at in reversed(places) for _ in range(max(rows[at]["count"], 1))]
        draws.sort(key=lambda at: -(worst if rows[at]["correctness"] is None else rows[at]["correctness"]))
        found |= set(draws[: max(len(draws) // 2, 1)])
    return found


def is_kept(condition: str, rows: list[dict], place: int) -> bool:
    """Evaluate a condition as its text says, by no code of the rule's."""
    row = rows[place]
    if condition in ("always", "never"):
        return condition == "always"
    if condition in (AS_ITS_ENGINE, REFERENT):
        return row["kept"]
    for part in condition.split(" and "):
        if part == BETTER_HALF:
            holds = place in better_half(rows)
        else:
            column, compare, bound, null = re.fullmatch(r"(\w+) ([<>]=?) (\S+)( or null)?", part).groups()
            holds = bool(null) if row[column] is None else COMPARE[compare](row[column], float(bound))
        if not holds:
            return False
    return True


def evaluated(clauses: Sequence[KeptClause], rows: list[dict]) -> list[bool]:
    """Return `kept` of each row of a run, by its clauses alone."""
    return [is_kept(clause_of(clauses, row).condition, rows, place) for place, row in enumerate(rows)]

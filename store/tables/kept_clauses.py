"""Says what a run keeps, by clauses out of its keep rule. Called by cards, pages, exports and `stats`.

Each sentence of ours on what is kept is a clause: one of its own would be false for some preset. A clause decides as
`judged_expressions` does; a test evaluates the conditions on drawn rules and rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from pseudoris.schemas.keep_rule import COMPOSED_KINDS, ONE_MASK, KeepRule
from pseudoris.schemas.run_records import RunHeader
from pseudoris.schemas.shard import SOURCE_COMPOSER, SOURCE_HUMAN, SOURCE_MODEL, SOURCE_RECIPE
from pseudoris.store.tables.judged_expressions import stated_rule

ONE_OF_SEVERAL: Final = "one of several masks"
LONE_MASK: Final = "mask alone in its image"
NO_ONE_MASK: Final = "several masks, or none"
ALWAYS: Final = "always"
NEVER: Final = "never"
BETTER_HALF: Final = "among the better half of its mask's draws by correctness"
AS_ITS_ENGINE: Final = "as its engine decided"
REFERENT: Final = "the mask is the referent of the text"
# Engines of ours score every caption. Those of a plug-in may leave out scores, and a bound on a null score holds.
_OWN_CAPTIONERS: Final = ("coca", "vlm")


@dataclass(frozen=True, slots=True)
class KeptClause:
    """Which expressions of one sort a run keeps.

    Attributes:
        run: The name of the combined run that it holds for; "" if it holds for all of the run.
        source: Who wrote them, as in the table's column.
        kinds: Of a model's, what they refer to; of the composer's, their column `kind`; else none, which are all.
        condition: `always`, `never`, or bounds on columns of the row joined by "and", each "or null" where a plug-in
            may leave the score out. Other conditions are the constants above.
        words: The clause as a sentence without its full stop.
    """

    run: str
    source: str
    kinds: tuple[str, ...]
    condition: str
    words: str

    def __str__(self) -> str:
        return f"{', '.join(self.kinds) or self.source}: {self.condition}"


def kept_clauses(header: RunHeader) -> tuple[KeptClause, ...]:
    """Return what decides for each sort of expression of a run; of a combined one by run, unless all are alike."""
    found = [(run.name, tuple(_clauses(run))) for run in header.runs]
    if len({clauses for _, clauses in found}) == 1:
        return found[0][1]
    named = (
        replace(each, run=name, words=f"{name or 'Without a name'}: {each.words}")
        for name, clauses in found
        for each in clauses
    )
    return tuple(dict.fromkeys(named))


def _clauses(run: RunHeader) -> Iterator[KeptClause]:
    rule = stated_rule(run)
    if run.origin == "ppt":
        words = "A row of a text is kept if its mask is the referent; the others are context masks, or undecided"
        yield KeptClause("", SOURCE_RECIPE, (), REFERENT, words)
    elif rule is None:
        yield KeptClause("", SOURCE_HUMAN, (), ALWAYS, "People wrote the expressions, and all of them are kept")
    else:
        if run.is_corrected:
            yield KeptClause("", SOURCE_HUMAN, (), ALWAYS, "What a person wrote is kept")
        yield from _of_models(run, rule)
        yield from _of_composer(run, rule)


def _of_models(run: RunHeader, rule: KeepRule) -> Iterator[KeptClause]:
    filtering, captioner = run.config.filtering, run.config.captions.engine
    is_own = filtering.engine == "clip" and captioner in _OWN_CAPTIONERS
    drawn = [each for each in rule.conditions if each.column not in COMPOSED_KINDS]
    bounds = [str(each) if is_own or each.column == "count" else f"{each} or null" for each in drawn]
    also = " and ".join(bounds)
    first = str(KeepRule(rule.tau))
    words = f"A caption of one of several masks is kept if {' and '.join([first, *bounds])}"
    if rule.tau is None:
        words = (
            f"{filtering.engine} kept captions by its own bound, which may differ from filtering.tau = "
            f"{filtering.tau:g}{f', of those with {also}' if also else ''}"
        )
    yield KeptClause("", SOURCE_MODEL, (ONE_OF_SEVERAL,), " and ".join([first, *bounds]), words)
    # Nothing was compared with a lone mask, so a bound on these scores holds for its captions.
    compared = ("uniqueness", "distinctiveness")
    bounds = [text for text, each in zip(bounds, drawn, strict=True) if each.column not in compared]
    words = "A caption of a mask that is alone in its image"
    if rule.lone_masks == "drop":
        yield KeptClause("", SOURCE_MODEL, (LONE_MASK,), NEVER, f"{words} is never kept")
    else:
        bounds = [BETTER_HALF] * (rule.lone_masks == "better_half") + bounds
        condition = " and ".join(bounds) or ALWAYS
        is_kept = f"is kept if {condition.replace('among', 'it is among')}" if bounds else "is kept"
        yield KeptClause("", SOURCE_MODEL, (LONE_MASK,), condition, f"{words} has no distinctiveness, and {is_kept}")
    if captioner not in _OWN_CAPTIONERS:
        words = f"A caption of several masks, or of none, is kept as {captioner} decided"
        yield KeptClause("", SOURCE_MODEL, (NO_ONE_MASK,), AS_ITS_ENGINE, words)


def _of_composer(run: RunHeader, rule: KeepRule) -> Iterator[KeptClause]:
    composing = run.config.composing
    if composing is None:
        return

    def decided(kind: str) -> tuple[str, float]:
        bounds = [f"confidence{str(each).removeprefix(kind)}" for each in rule.conditions if each.column == kind]
        return " and ".join(bounds) or ALWAYS, composing.min_first if kind in ONE_MASK else composing.least_of_others

    for (condition, least), kinds in groupby(sorted(composing.kinds, key=decided), decided):
        names = tuple(kinds)
        words = f"A composed expression ({', '.join(names)}) is kept" + f" if {condition}" * (condition != ALWAYS)
        written = f"{words}; it is composed only at a confidence above {least:g}"
        yield KeptClause("", SOURCE_COMPOSER, names, condition, written)

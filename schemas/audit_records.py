"""What a run says of audits: of the one that chose its rule, and of the one that its card cites. For `store`."""

from __future__ import annotations

from pydantic import Field

from pseudoris.schemas.frozen import FrozenModel, Sha256, UnitInterval
from pseudoris.schemas.run_records import SealedRecord


class AuditRecord(FrozenModel):
    """The audit of a `refilter --accuracy`, the section `audits` of the header.

    Attributes:
        run_root: Root digest of the run that was drawn from.
        verdicts: Verdicts on pairs that the chosen rule keeps.
        target: Accuracy that was asked for.
        rule: The bound that was chosen, in words.
        accuracy: Share of right pairs, as estimated; corrected for raters' errors if that is known.
        at_least: Its lower limit, one-sided.
        level: Of that limit.
    """

    draw: Sha256
    run_root: Sha256
    raters: int = Field(ge=1)
    verdicts: int = Field(ge=1)
    target: UnitInterval
    rule: str
    accuracy: UnitInterval
    at_least: UnitInterval
    level: UnitInterval = 0.95


class JudgedShare(FrozenModel):
    """A share with its 95 % interval."""

    value: UnitInterval
    low: UnitInterval
    high: UnitInterval


class CitedAudit(SealedRecord):
    """What the data card says of an audit of the run: `_audit.json`, beside the header.

    Attributes:
        run_root: Root digest of the run when it was cited.
        num_judged: Drawn pairs with a verdict.
        accuracy: Share of right pairs among the kept.
        undecided: Verdicts `cannot_say` that `accuracy` leaves out.
        worst, best: The share if all of these were wrong, or right.
        corrected: The accuracy, corrected for raters' errors; None where too little was judged twice.
        masks: Share of masks with a right expression.
    """

    draw: Sha256
    run_root: Sha256
    raters: int = Field(ge=1)
    num_judged: int = Field(ge=1)
    num_drawn: int = Field(ge=1)
    accuracy: JudgedShare
    undecided: int = Field(ge=0)
    worst: UnitInterval
    best: UnitInterval
    corrected: JudgedShare | None
    masks: JudgedShare

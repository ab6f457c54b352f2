"""What a run's header says of the audit that its keep rule was chosen by."""

from __future__ import annotations

from pydantic import Field, ValidationError

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.frozen import FrozenModel, UnitInterval
from pseudoris.schemas.run_records import RunHeader, Sha256


class AuditRecord(FrozenModel):
    """The audit of a `refilter --accuracy`, the section `audits` of the header.

    Attributes:
        draw: Digest of the draw.
        run_root: Root digest of the run that was drawn from.
        raters: Number of raters.
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


def audit_of(header: RunHeader) -> AuditRecord | None:
    """Return the audit of a run's header; None if no audit chose its rule.

    Raises:
        ConfigError: A later version of the package wrote it.
    """
    try:
        return None if header.audits is None else AuditRecord.model_validate(header.audits)
    except ValidationError as error:
        places = ", ".join(sorted({".".join(map(str, item["loc"])) for item in error.errors()}))
        raise ConfigError(
            f"the section audits of the run's header is not what this version writes, see {places}: use the version of "
            "pseudoris that wrote it"
        ) from None

"""Sections of a run's header that are optional, and `_audit.json`: what the run excludes, and what audits say of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue, ValidationError

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.frozen import FrozenModel, UnitInterval
from pseudoris.schemas.run_records import PartRecord, PlanExtension, RunHeader, SealedRecord, Sha256

# By name: `refer`, `names`, and `only`, which leaves out what it does not name. They act on the plan. By content:
# `sha256`, `phash`. They act when an image is read.
RuleKind = Literal["refer", "names", "only", "sha256", "phash"]
NAME_KINDS: Final = frozenset({"refer", "names", "only"})

# The REFER datasets that share the images of MS-COCO's train2014, each split in its own way.
SHARED_DATASETS: Final = ("refcoco", "refcoco+", "refcocog")

# The reason code of an image that a rule by content excludes.
EXCLUDED: Final = "excluded"


class ExclusionRule(FrozenModel):
    """One rule. Two rules are the same if kind, settings and values are; the files may have moved.

    Attributes:
        kind: What the values are: file names and COCO ids (`refer` from a REFER dataset, `names` from a list, `only` of
            the images that stay), sha256 of encoded bytes, or perceptual hashes.
        name: Last name of the path that was given: of a moved file the same, so that it can stand in tables.
        files: sha256 by name of the files that were read; empty for a folder of images.
        settings: `splits` of `refer`, all that are held out; `max_distance` of `phash`, in bits, inclusive.
        num_values: Number of values.
        values_sha256: sha256 of the values, sorted, a line each.
        num_excluded: By name: images of the last listing that are not planned because of it, each counted for the first
            rule that applies. None by content: the images are planned, and quarantined as `excluded`.
        num_absent: Of `only`: values that name no image of the last listing; None if it was not read to its end.
    """

    kind: RuleKind
    name: str
    files: dict[str, Sha256] = Field(default_factory=dict)
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    num_values: int = Field(ge=1)
    values_sha256: Sha256
    num_excluded: int | None = Field(default=None, ge=0)
    num_absent: int | None = Field(default=None, ge=0)

    @property
    def option(self) -> str:
        """The option that gives it, with its name."""
        return f"{'--only' if self.kind == 'only' else '--exclude'} {self.name}"

    @property
    def is_by_name(self) -> bool:
        """Whether it acts on the plan."""
        return self.kind in NAME_KINDS

    @property
    def datasets(self) -> list[str]:
        """Names of the REFER datasets that were read, by the folders of their files; of other kinds none."""
        files = self.files if self.kind == "refer" else ()
        return sorted({PurePosixPath(file).parent.name or self.name for file in files})

    @property
    def title(self) -> str:
        """Its name, with the REFER datasets that were read if the name does not say them."""
        return self.name if self.datasets in ([], [self.name]) else f"{self.name} ({', '.join(self.datasets)})"

    @property
    def identity(self) -> str:
        """What must be equal for two sessions to have the same rule, as text for messages."""
        settings = "".join(f", {name} {_shown(value)}" for name, value in sorted(self.settings.items()))
        return f"{self.kind}, {self.num_values:,} values{settings}, sha256 {self.values_sha256[:16]}"

    @property
    def dropped_phrase(self) -> str:
        """What a list of dropped things calls the images that it excludes."""
        return f"images excluded by {self.name} ({self.kind})"

    @property
    def reason(self) -> str:
        """The message of an image that it excludes."""
        if self.kind == "phash":
            distance = self.settings.get("max_distance")
            return f"excluded by {self.name}: its perceptual hash is within {distance} bits of a listed one"
        what = "sha256" if self.kind == "sha256" else "name or COCO id"
        return f"excluded by {self.name}: its {what} is listed"


class ExclusionRecord(FrozenModel):
    """All rules of a run, in the order that they were given in, and the file of the plan that holds their values."""

    rules: Annotated[tuple[ExclusionRule, ...], Field(min_length=1)]
    part: PartRecord

    @property
    def missing(self) -> str | None:
        """Which REFER datasets share images with those that were read, and were not read, in a sentence; else None."""
        return missing_phrase(self.rules)


class ListingCounts(FrozenModel):
    """What one listing says of the rules: `num_excluded` of each by its number, `num_absent` of the one of `only`.

    It is the section `exclusions` of an extension of the plan.
    """

    num_excluded: tuple[int | None, ...]
    num_absent: int | None = None


def missing_phrase(rules: Iterable[ExclusionRule]) -> str | None:
    """Return which of `SHARED_DATASETS` no rule reads, in a sentence; None if they read all, or none."""
    read = {name for rule in rules for name in rule.datasets}
    there, missing = ([name for name in SHARED_DATASETS if (name in read) == wanted] for wanted in (True, False))
    if not there or not missing:
        return None
    share, were = ("shares", "was") if len(missing) == 1 else ("share", "were")
    return f"{' and '.join(missing)}, which {share} images with {' and '.join(there)}, {were} not read"


def exclusions_of(header: RunHeader) -> ExclusionRecord | None:
    """Return what the run of `header` excludes; None if nothing.

    Raises:
        ConfigError: The section was edited, or another version wrote it.
    """
    if header.exclusions is None:
        return None
    try:
        return ExclusionRecord.model_validate(header.exclusions)
    except ValidationError as error:
        raise ConfigError(
            f"the section `exclusions` of _run.json cannot be read ({error.error_count()} problems): it was edited, or "
            "another version of pseudoris wrote it. Use that version, or name another output"
        ) from None


def extended_exclusions(header: RunHeader, extension: PlanExtension) -> dict[str, JsonValue] | None:
    """Return the section of `header` with the counts of an extension, which listed all of SOURCE again."""
    record = exclusions_of(header)
    if record is None or extension.exclusions is None:
        return header.exclusions
    counts = ListingCounts.model_validate(extension.exclusions)
    return as_section(counted(record.rules, counts), record.part)


def counted(rules: Sequence[ExclusionRule], counts: ListingCounts) -> tuple[ExclusionRule, ...]:
    """Return the rules with the counts of another listing."""
    return tuple(
        rule.model_copy(
            update={"num_excluded": count, "num_absent": counts.num_absent if rule.kind == "only" else None}
        )
        for rule, count in zip(rules, counts.num_excluded, strict=True)
    )


def as_section(rules: Sequence[ExclusionRule], part: PartRecord) -> dict[str, JsonValue]:
    """Return the section of a header."""
    return ExclusionRecord(rules=tuple(rules), part=part).model_dump(mode="json")


def _shown(value: JsonValue) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


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


class JudgedShare(FrozenModel):
    """A share with its 95 % interval."""

    value: UnitInterval
    low: UnitInterval
    high: UnitInterval


class CitedAudit(SealedRecord):
    """What the data card says of an audit of the run: `_audit.json`, beside the header.

    Attributes:
        draw: Digest of the draw.
        run_root: Root digest of the run when it was cited.
        raters: Number of raters.
        num_judged: Drawn pairs with a verdict.
        num_drawn: Pairs drawn.
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


def audit_of(header: RunHeader) -> AuditRecord | None:
    """Return the audit of a run's header; None if no audit chose its rule.

    Raises:
        ConfigError: Another version of the package wrote it.
    """
    try:
        return None if header.audits is None else AuditRecord.model_validate(header.audits)
    except ValidationError as error:
        places = ", ".join(sorted({".".join(map(str, item["loc"])) for item in error.errors()}))
        raise ConfigError(
            f"the section audits of the run's header is not what this version writes, see {places}: use the version of "
            "pseudoris that wrote it"
        ) from None

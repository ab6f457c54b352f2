"""`draw.json`: from which run a sample was drawn, by which design, with which strata. Written once, sealed.

Its `sha256` is the digest of the draw. It covers both tables by their sha256, and every verdict file names it, so that
verdicts on another sample are found.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.frozen import FrozenModel
from pseudoris.schemas.run_records import PartRecord, SealedRecord, Sha256
from pseudoris.store.runs.seals import read_version, sealed

DRAW_NAME: Final = "draw.json"
# As in all records: version 1 is what has no digest, and there is none of it. Version 2 had these fields too.
DRAW_VERSION: Final = 3
_OF_VERSION_2: Final = frozenset({"blind_share", "double_share", "planted"})
_RESTORE: Final = "Restore the file from a copy, or draw again into another folder"


class DrawnRun(FrozenModel):
    """The run that was drawn from.

    Attributes:
        location: Absolute path or url of its folder at that time.
        created_utc: When it was created.
        header_sha256: Digest of its header; None for a run of version 0.1.
        root_sha256: Its root digest over the shards that were committed; see `pseudoris.store.runs.root_digest`.
        source: Its SOURCE.
        origin: What made it: annotate, refilter, import or ppt.
        is_complete: Whether every planned shard was committed.
        rule: What it keeps, in words; None where no rule decides.
    """

    location: str
    created_utc: str
    header_sha256: Sha256 | None
    root_sha256: Sha256
    source: str
    origin: str
    is_complete: bool
    rule: str | None


class Population(FrozenModel):
    """What the audit speaks about: the pairs of all images that are not quarantined.

    Attributes:
        images: Annotated or empty.
        masks: Of these images.
        masks_with_kept: Masks with at least one kept expression of their own.
        pairs: Different expressions of different targets, kept or not.
        kept: Of these, the kept ones.
        without_target: Expressions that refer to no mask. They are left out, and are no pairs.
    """

    images: int = Field(ge=0)
    masks: int = Field(ge=0)
    masks_with_kept: int = Field(ge=0)
    pairs: int = Field(ge=0)
    kept: int = Field(ge=0)
    without_target: int = Field(default=0, ge=0)


class Stratum(FrozenModel):
    """A stratum of pairs, or of images.

    Attributes:
        number: From 0; the column `stratum` of the table.
        name: For people: `kept, score 0.41 to 0.63`.
        is_kept: Whether the run keeps its pairs; None for a stratum of images.
        num_units: Pairs of the run that it holds; of a stratum of images, images.
        num_images: Images of the run that hold them.
        num_drawn: Of the units.
    """

    number: int = Field(ge=0)
    name: str
    is_kept: bool | None = None
    num_units: int = Field(ge=1)
    num_images: int = Field(ge=1)
    num_drawn: int = Field(ge=0)

    @model_validator(mode="after")
    def _draws_no_more_than_it_has(self) -> Self:
        if self.num_drawn > self.num_units:
            raise ValueError(f"{self.num_drawn} units are drawn of {self.num_units}")
        return self


class DrawRecord(SealedRecord):
    """The draw.

    Attributes:
        seed: The same run, options and seed give the same pairs.
        score: What the strata are made by: the run's `confidence`, or `label_free`, computed from its other scores.
        strata: Of the pairs.
        image_strata: Of the images that are asked for missed objects.
        parts: `pairs.parquet` and `images.parquet`.
    """

    version: int = DRAW_VERSION
    created_utc: str
    run: DrawnRun
    population: Population
    seed: int = Field(ge=0)
    score: Literal["confidence", "label_free"]
    strata: tuple[Stratum, ...]
    image_strata: tuple[Stratum, ...]
    parts: tuple[PartRecord, ...]

    @model_validator(mode="before")
    @classmethod
    def _without_what_left(cls, fields: dict[str, Any]) -> dict[str, Any]:
        left = _OF_VERSION_2 if fields.get("version") == 2 else ()
        return {name: value for name, value in fields.items() if name not in left}

    @property
    def digest(self) -> str:
        """The digest of the draw, 64 hex digits."""
        if self.sha256 is None:
            raise ValueError("the record has not been sealed")
        return self.sha256


def draw_bytes(record: DrawRecord) -> tuple[DrawRecord, bytes]:
    """Return the record with its digest, and the bytes of its file."""
    return sealed(record)


def parse_draw(data: bytes, name: str) -> DrawRecord:
    """Return the record in the bytes of a file; errors show `name`.

    Raises:
        ConfigError: It is not a draw, it was changed, or a later version of the package wrote it.
    """
    try:
        read_version(data, name, newest=DRAW_VERSION, remedy=_RESTORE)
    except ValueError:
        raise ConfigError(f"{name} is not the draw of an audit ({len(data)} bytes). {_RESTORE}") from None
    try:
        record = DrawRecord.model_validate_json(data)
    except ValidationError as error:
        places = sorted({".".join(map(str, item["loc"])) for item in error.errors()})
        raise ConfigError(f"{name} is not a valid draw, see {', '.join(places)}. {_RESTORE}") from None
    if record.sha256 is None:
        raise ConfigError(f"{name} has no digest. {_RESTORE}")
    return record

"""`verdicts/<rater>.jsonl`: one JSON object a line, in UTF-8; appended, never rewritten.

    {"line":"header","version":1,"draw":"<64 hex>","rater":"ana","created_utc":"2026-…","digest":"3f…"}
    {"line":"verdict","pair":"…-0007-9f3a1c07","verdict":"right","comment":"","seconds":4.2,…}
    {"line":"missed","image":"…","clicks":[[40,52.5]],"comment":"","seconds":9.1,"utc":"…","digest":"…"}
    {"line":"undo","pair":"…-0007-9f3a1c07","utc":"…","digest":"…"}

Every line ends with its `digest`: the first 16 hex digits of sha256 over the UTF-8 bytes of the previous line's digest
("" before the header), followed by the line up to, and without, `,"digest":`. Each line, the last one too, ends with a
line feed. So a line that was edited, removed from
the middle, or moved is found. It detects accidents, not a forger. A file that ends in the middle of a line was cut off
by a crash: that last piece was never confirmed to the rater, and is left out.

The last line about a pair or an image counts: a second verdict replaces the first, `undo` withdraws it. The page in
the browser writes the file; in JavaScript a line is `body + ',"digest":"' + sha256(previous + body).slice(0, 16) +
'"}'`, with `body` the object's JSON without its closing brace.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from pseudoris.schemas.frozen import FrozenModel, NonNegative
from pseudoris.schemas.run_records import Sha256

VERDICTS_VERSION: Final = 1
RATER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")

RIGHT: Final = "right"
CANNOT_SAY: Final = "cannot_say"
# What the rater may answer, with its question for a person.
VERDICTS: Final[dict[str, str]] = {
    RIGHT: "It is true of the outlined object, and of no other object in the picture.",
    "several": "It is true of the outlined object, and of others as well.",
    "untrue": "It is not true of the outlined object.",
    "not_an_object": "The outline holds background, or less than half of an object. A group counts as one.",
    CANNOT_SAY: "The picture does not tell.",
}
Verdict = Literal["right", "several", "untrue", "not_an_object", "cannot_say"]

_DIGEST_DIGITS: Final = 16
_LINE: Final = re.compile(r'(\{.+),"digest":"([0-9a-f]{16})"\}')
MAX_COMMENT: Final = 2_000

_Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Point = tuple[_Coordinate, _Coordinate]
_Comment = Annotated[str, Field(max_length=MAX_COMMENT)]


def utc_now() -> str:
    """Return the present time as the lines have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class HeaderLine(FrozenModel):
    """The first line.

    Attributes:
        draw: `DrawRecord.digest`.
        rater: The file's stem.
    """

    line: Literal["header"] = "header"
    version: int = VERDICTS_VERSION
    draw: Sha256
    rater: str = Field(pattern=f"^{RATER_NAME.pattern}$")
    created_utc: str = Field(default_factory=utc_now)


class VerdictLine(FrozenModel):
    """A verdict on a pair.

    Attributes:
        pair: A `pair_id` of `pairs.parquet`.
        seconds: From the picture to the answer; None if unknown.
    """

    line: Literal["verdict"] = "verdict"
    pair: str
    verdict: Verdict
    comment: _Comment = ""
    seconds: NonNegative | None = None
    utc: str = Field(default_factory=utc_now)

    @model_validator(mode="before")
    @classmethod
    def _without_click(cls, fields: dict[str, Any]) -> dict[str, Any]:
        # Earlier pages asked for a click before some verdicts.
        return {name: value for name, value in fields.items() if name not in ("click", "in_mask")}


class MissedLine(FrozenModel):
    """All objects of an image that no mask has.

    Attributes:
        image: An `image_id` of `images.parquet` with `is_asked_missed`.
        clicks: (x, y) of one click an object, in upright pixels; empty if no object is missed.
    """

    line: Literal["missed"] = "missed"
    image: str
    clicks: tuple[Point, ...] = ()
    comment: _Comment = ""
    seconds: NonNegative | None = None
    utc: str = Field(default_factory=utc_now)


class UndoLine(FrozenModel):
    """Withdraws what stands about one pair, or about one image's missed objects."""

    line: Literal["undo"] = "undo"
    pair: str | None = None
    image: str | None = None
    utc: str = Field(default_factory=utc_now)

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.pair is None) == (self.image is None):
            raise ValueError("an undo names either a pair or an image")
        return self


Answer = VerdictLine | MissedLine | UndoLine
Line = HeaderLine | Answer
_LINES: Final[TypeAdapter[Line]] = TypeAdapter(Annotated[Line, Field(discriminator="line")])


def encode_line(line: Line, previous: str) -> tuple[str, str]:
    """Return the text of a line, with its line end, and its digest; `previous` is the digest of the line before."""
    body = line.model_dump_json()[:-1]
    digest = _digest(previous, body)
    return f'{body},"digest":"{digest}"}}\n', digest


def decode_line(text: str, previous: str) -> tuple[Line, str]:
    """Return a line, given without its line end, and its digest.

    Raises:
        ValueError: It is not a line, or not the one that was written after `previous`; says why.
    """
    match = _LINE.fullmatch(text)
    if match is None:
        raise ValueError(f"it does not end with a digest: {text[:80]!r}")
    if _digest(previous, match[1]) != match[2]:
        raise ValueError(f"its digest {match[2]!r} does not fit: it, or a line before it, was edited, moved or removed")
    try:
        return _LINES.validate_json(match[1] + "}"), match[2]
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        place = ".".join(map(str, item["loc"]))
        raise ValueError(f"{place}: {item['msg']} (got {item['input']!r})") from None


def _digest(previous: str, body: str) -> str:
    return hashlib.sha256((previous + body).encode()).hexdigest()[:_DIGEST_DIGITS]

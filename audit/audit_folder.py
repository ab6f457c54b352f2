"""Opens an audit's folder, and reads, writes and adds raters' files. For `audit`, `cli`, examples and experiments.

No figure comes from a changed file: each table has the digest that the draw names, and each answer is to its questions.
A rater's file, `verdicts/<rater>.jsonl`, only grows. It has one JSON object a line, in UTF-8; lines are appended, never
rewritten.

    {"line":"header","version":2,"draw":"<64 hex>","rater":"ana","created_utc":"2026-…","digest":"3f…"}
    {"line":"verdict","pair":"…-0007-9f3a1c07","verdict":"right","comment":"","seconds":4.2,"utc":"…","digest":"…"}
    {"line":"missed","image":"…","clicks":[[40,52.5]],"comment":"","seconds":9.1,"utc":"…","digest":"…"}
    {"line":"undo","pair":"…-0007-9f3a1c07","utc":"…","digest":"…"}

Every line ends with its `digest`: the first 16 hex digits of sha256 over the UTF-8 bytes of the previous line's digest
("" before the header), followed by the line up to, and without, `,"digest":`. Each line, the last one too, ends with a
line feed. So a line that was edited, removed from the middle, or moved is found. It detects accidents, not a forger. A
file that ends in the middle of a line was cut off by a crash: that last piece was never confirmed to the rater, and is
left out.

The last line about a pair or an image counts: a second verdict replaces the first, `undo` withdraws it.
`templates/storage.js` writes the same file in the browser: both must change together.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import pyarrow as pa
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from pseudoris.audit.draw_files import DRAW_NAME, IMAGES_NAME, IMAGES_SCHEMA, PAIRS_NAME, DrawRecord, read_sample
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, refuse_other_version
from pseudoris.primitives.untrusted import MAX_BYTES, open_regular
from pseudoris.schemas.frozen import FrozenModel, NonNegative, Sha256
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.runs.header import parse_record

VERDICTS_FOLDER: Final = "verdicts"
SUFFIX: Final = ".jsonl"
VERDICTS_VERSION: Final = 2
RATER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")

RIGHT: Final = "right"
CANNOT_SAY: Final = "cannot_say"
VERDICTS: Final[dict[str, str]] = {
    RIGHT: "It is true of the outlined object, and of no other object in the picture.",
    "several": "It is true of the outlined object, and of others as well.",
    "untrue": "It is not true of the outlined object.",
    "not_an_object": "The outline holds background, or less than half of an object. A group counts as one.",
    CANNOT_SAY: "The picture does not tell.",
}
# Maps a verdict on an absence to its answer to "is this in the picture?", and to its explanation.
ABSENCE_VERDICTS: Final[dict[str, tuple[str, str]]] = {
    RIGHT: ("No", "Nothing in the picture is that."),
    "untrue": ("Yes", "There is one or more, outlined or not."),
    CANNOT_SAY: ("Cannot say", VERDICTS[CANNOT_SAY]),
}
Verdict = Literal["right", "several", "untrue", "not_an_object", "cannot_say"]

_DIGEST_DIGITS: Final = 16
_LINE: Final = re.compile(rf'(\{{.+),"digest":"([0-9a-f]{{{_DIGEST_DIGITS}}})"\}}')
MAX_COMMENT: Final = 2_000

_Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Point = tuple[_Coordinate, _Coordinate]
_Comment = Annotated[str, Field(max_length=MAX_COMMENT)]


class HeaderLine(FrozenModel):
    """The first line: the digest of the draw, and the rater, who is the file's stem."""

    line: Literal["header"] = "header"
    version: int = VERDICTS_VERSION
    draw: Sha256
    rater: str = Field(pattern=f"^{RATER_NAME.pattern}$")
    created_utc: str = ""


class VerdictLine(FrozenModel):
    """A verdict on a pair; `seconds` from the picture to the answer, None if unknown."""

    line: Literal["verdict"] = "verdict"
    pair: str
    verdict: Verdict
    comment: _Comment = ""
    seconds: NonNegative | None = None
    utc: str = ""


class MissedLine(FrozenModel):
    """All objects of an image that no mask has: `clicks` are (x, y) of one click each, in upright pixels."""

    line: Literal["missed"] = "missed"
    image: str
    clicks: tuple[Point, ...] = ()
    comment: _Comment = ""
    seconds: NonNegative | None = None
    utc: str = ""


class UndoLine(FrozenModel):
    """Withdraws the answer about one pair, or about one image's missed objects."""

    line: Literal["undo"] = "undo"
    pair: str | None = None
    image: str | None = None
    utc: str = ""

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.pair is None) == (self.image is None):
            raise ValueError("an undo names either a pair or an image")
        return self


Answer = VerdictLine | MissedLine | UndoLine
Line = HeaderLine | Answer
_LINES: Final[TypeAdapter[Line]] = TypeAdapter(Annotated[Line, Field(discriminator="line")])


@dataclass(frozen=True, slots=True)
class Known:
    """What an audit asks: digest of the draw, ids of pairs, ids of images that are asked for missed objects.

    A file that answers anything else is refused; `run` names the drawn run in messages.
    """

    draw: str
    pairs: Collection[str]
    images: Collection[str]
    run: str = "another run"


@dataclass(slots=True)
class RaterAnswers:
    """The answers of one rater's file that count.

    Attributes:
        verdicts: The last verdict on each pair that was not undone, by pair id; `missed` has the same by image id.
        num_cut_bytes: Length of a last line that a crash cut off.
        num_bytes: Length of the file without that line.
    """

    rater: str
    verdicts: dict[str, VerdictLine] = field(default_factory=dict)
    missed: dict[str, MissedLine] = field(default_factory=dict)
    num_replaced: int = 0
    num_undone: int = 0
    num_cut_bytes: int = 0
    num_bytes: int = 0

    def add(self, answer: Answer) -> None:
        """Take an answer, which may replace or withdraw an earlier one."""
        if isinstance(answer, VerdictLine):
            self.num_replaced += answer.pair in self.verdicts
            self.verdicts[answer.pair] = answer
        elif isinstance(answer, MissedLine):
            self.num_replaced += answer.image in self.missed
            self.missed[answer.image] = answer
        elif answer.pair is not None:
            self.num_undone += self.verdicts.pop(answer.pair, None) is not None
        else:
            self.num_undone += self.missed.pop(answer.image or "", None) is not None


def read_answers(data: bytes, name: str, known: Known, *, rater: str | None = None) -> RaterAnswers:
    """Return the answers in a file's bytes that count; errors show `name`, the line and the value.

    With `rater`, the file must be of this rater.
    """
    lines = _decoded(data, name)
    header = next(lines, None)
    if not isinstance(header, HeaderLine):
        raise ConfigError(f"{name} has no header line: it is not a file of verdicts, or its beginning was removed")
    refuse_other_version(name, header.version, VERDICTS_VERSION, again="judge again")
    if header.draw != known.draw:
        raise ConfigError(
            f"{name} answers the draw {header.draw[:12]}…, and this audit is the draw {known.draw[:12]}… of "
            f"{known.run}: its pairs were drawn from another run, or at another time. Add it to its own audit"
        )
    if rater is not None and header.rater != rater:
        raise ConfigError(
            f"{name} holds the verdicts of the rater {header.rater!r}. A file has the name of its rater: name it "
            f"{header.rater}{SUFFIX}, or use `pseudoris audit add`"
        )
    end = data.rfind(b"\n") + 1
    answers = RaterAnswers(header.rater, num_cut_bytes=len(data) - end, num_bytes=end)
    for number, line in enumerate(lines, start=2):
        place = f"{name}, line {number}"
        if isinstance(line, HeaderLine):
            raise ConfigError(f"{place}: a second header. Add files one by one, do not join them")
        pair = None if isinstance(line, MissedLine) else line.pair
        image = None if isinstance(line, VerdictLine) else line.image
        if pair is not None and pair not in known.pairs:
            raise ConfigError(f"{place}: the audit has no pair {pair!r}")
        if image is not None and image not in known.images:
            raise ConfigError(f"{place}: the audit does not ask the image {image!r} for missed objects")
        answers.add(line)
    return answers


def write_answers(header: HeaderLine, answers: Iterable[Answer]) -> bytes:
    """Return the file of a rater whose answers do not come from the page."""
    data, digest = "", ""
    for line in (header, *answers):
        body = line.model_dump_json(exclude_none=True)[:-1]
        digest = _digest(digest, body)
        data += f'{body},"digest":"{digest}"}}\n'
    return data.encode()


def _digest(previous: str, body: str) -> str:
    return hashlib.sha256((previous + body).encode()).hexdigest()[:_DIGEST_DIGITS]


def _decoded(data: bytes, name: str) -> Iterator[Line]:
    previous = ""
    # The text after the last line end is ignored, because a crash may have cut it off.
    for number, raw in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            text = raw.decode("utf-8")
            match = _LINE.fullmatch(text)
            if match is None:
                raise ValueError(f"it does not end with a digest: {text[:80]!r}")
            if _digest(previous, match[1]) != match[2]:
                what = "it, or a line before it, was edited, moved or removed"
                raise ValueError(f"its digest {match[2]!r} does not fit: {what}")
            line, previous = _LINES.validate_json(match[1] + "}"), match[2]
        except ValueError as error:
            said = str(error)
            if isinstance(error, ValidationError):
                item = error.errors(include_url=False)[0]
                said = f"{'.'.join(map(str, item['loc']))}: {item['msg']} (got {item['input']!r})"
            raise ConfigError(f"{name}, line {number}: {said}. Restore the file from a copy") from None
        yield line


_RESTORE: Final = "Restore the file from a copy, or draw again into another folder"


@dataclass(frozen=True, slots=True)
class AuditFolder:
    """An audit on this disk: its tables, `images` without `bytes`, and what a file of verdicts may answer."""

    path: Path
    draw: DrawRecord
    pairs: pa.Table
    images: pa.Table
    known: Known

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read and check the draw and its tables."""
        shown, what = str(path / DRAW_NAME), "the draw of an audit"
        draw = parse_record(_read(path, DRAW_NAME), shown, DrawRecord, what, remedy=_RESTORE, again="draw again")
        data = {part.name: _read(path, part.name) for part in draw.parts}
        for part in draw.parts:
            if sha256_hex(data[part.name]) != part.sha256:
                raise ConfigError(
                    f"{path / part.name} was changed after it was drawn: its sha256 is not the one that {DRAW_NAME} "
                    f"names. {_RESTORE}"
                )
        pairs = read_sample(path / PAIRS_NAME, data[PAIRS_NAME])
        columns = [name for name in IMAGES_SCHEMA.names if name != "bytes"]
        images = read_sample(path / IMAGES_NAME, data[IMAGES_NAME], columns)
        asked = images.filter(images["is_asked_missed"])["image_id"].to_pylist()
        run = f"the run {draw.run.header_sha256[:12]}… at {draw.run.location}"
        known = Known(draw.digest, frozenset(pairs["pair_id"].to_pylist()), frozenset(asked), run)
        return cls(path, draw, pairs, images, known)

    def pictures(self) -> dict[str, bytes | None]:
        """Return the encoded bytes of each image by its id; None if it could not be read when it was drawn."""
        table = read_sample(self.path / IMAGES_NAME, _read(self.path, IMAGES_NAME), ["image_id", "bytes"])
        return dict(zip(table["image_id"].to_pylist(), table["bytes"].to_pylist(), strict=True))

    def masks(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return by image id, then mask id: `height`, `width` and RLE `counts` of each mask."""
        rows = zip(self.images["image_id"].to_pylist(), self.images["masks"].to_pylist(), strict=True)
        return {image: {mask["mask_id"]: mask for mask in masks} for image, masks in rows}

    def answers(self) -> list[RaterAnswers]:
        """Return the answers of every rater that count, ordered by name; empty before the first verdict."""
        location, folder = RunLocation.open(str(self.path)), self.path / VERDICTS_FOLDER
        for name, what in location.list_obstacles(VERDICTS_FOLDER):
            raise ConfigError(f"{folder / name} is {what}, not a file of verdicts: move it out of the audit")
        names = sorted(file.name for file in location.list(VERDICTS_FOLDER) if file.name.endswith(SUFFIX))
        for name in names:
            # A browser saves a second download as `ana (1).jsonl`, which is refused: its answers would count twice.
            if RATER_NAME.fullmatch(name.removesuffix(SUFFIX)) is None:
                raise ConfigError(
                    f"{folder / name} does not have the name of a rater. Move it to another folder, and add it from "
                    f"there: `pseudoris audit add {self.path} FILE`"
                )
        data = ((name, _read(self.path, f"{VERDICTS_FOLDER}/{name}")) for name in names)
        return [
            read_answers(each, str(folder / name), self.known, rater=name.removesuffix(SUFFIX)) for name, each in data
        ]


def _read(audit: Path, name: str) -> bytes:
    location = RunLocation.open(str(audit))
    remedy = "draw one with `pseudoris audit draw OUT AUDIT`" if name == DRAW_NAME else "draw again"
    try:
        size_bytes = location.size(name) or 0
        if size_bytes > MAX_BYTES:
            raise ConfigError(f"{audit / name} has {size_bytes:,} bytes, of at most {MAX_BYTES:,}: {remedy}")
        return location.read_bytes(name)
    except FileNotFoundError:
        found = location.obstacle(name)
        if found is not None:
            raise ConfigError(f"{audit / name} is {found}, not a file: move it away, then {remedy}") from None
        raise ConfigError(f"there is no audit at {audit}: {name} is missing; {remedy}") from None


def add_file(
    audit: AuditFolder, file: Path, verdicts_of: Callable[[bytes], bytes] = lambda data: data
) -> tuple[int, RaterAnswers]:
    """Add a file of verdicts that continues the audit's; the same file, or an earlier state of it, changes nothing.

    Returns the number of lines that the audit did not have, and the rater's answers that now count. `verdicts_of` turns
    the bytes of another format into those of a file of verdicts.
    """
    try:
        with open_regular(file) as stream:
            data = verdicts_of(stream.read())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error})") from error
    folder = os.open(audit.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Another `audit add` waits here, because both would replace one file. Closing the folder releases the lock.
        fcntl.flock(folder, fcntl.LOCK_EX)
        answers = read_answers(data, str(file), audit.known)
        data = data[: answers.num_bytes]
        location, name = RunLocation.open(str(audit.path)), f"{VERDICTS_FOLDER}/{answers.rater}{SUFFIX}"
        path = audit.path / name
        if found := location.obstacle(name):
            raise ConfigError(f"{path} is {found}, not a file of verdicts: move it out of the audit")
        before = location.read_bytes(name) if location.exists(name) else b""
        if before:
            known = read_answers(before, str(path), audit.known, rater=answers.rater)
            before = before[: known.num_bytes]
            if before.startswith(data):
                return 0, known
        if not data.startswith(before):
            lines = zip(data.split(b"\n"), before.split(b"\n"), strict=False)
            first = next(number for number, (mine, theirs) in enumerate(lines, start=1) if mine != theirs)
            remedy = "Two people, or two devices, need two names"
            if file.suffix.lower() == ".json":
                later = f"If {file.name} is a later export of the same person, move {path} out of the audit"
                remedy = f"{later}, and add {file.name} again. Two people need two names"
            raise ConfigError(
                f"{file}, line {first}: the audit has other verdicts of a rater {answers.rater!r} in {path}. {remedy}"
            )
        location.replace(name, data)
        return data.count(b"\n") - before.count(b"\n"), answers
    finally:
        os.close(folder)

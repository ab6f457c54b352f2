"""Opens an audit's folder, and adds a rater's file to it. Called by `audit`, `cli` and examples.

No figure comes from a changed file: each table has the digest that the draw names, and each answer is to its questions.
A rater's file only grows.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa

from pseudoris.audit.draw_files import DRAW_NAME, IMAGES_NAME, IMAGES_SCHEMA, PAIRS_NAME, DrawRecord, read_sample
from pseudoris.audit.verdicts import RATER_NAME, SUFFIX, VERDICTS_FOLDER, Known, RaterAnswers, read_answers
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import MAX_BYTES, open_regular
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.runs.header import parse_record

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
        pairs = read_sample(data[PAIRS_NAME], PAIRS_NAME, shown=str(path / PAIRS_NAME))
        columns = [name for name in IMAGES_SCHEMA.names if name != "bytes"]
        images = read_sample(data[IMAGES_NAME], IMAGES_NAME, shown=str(path / IMAGES_NAME), columns=columns)
        asked = images.filter(images["is_asked_missed"])["image_id"].to_pylist()
        run = f"the run {draw.run.header_sha256[:12]}… at {draw.run.location}"
        known = Known(draw.digest, frozenset(pairs["pair_id"].to_pylist()), frozenset(asked), run)
        return cls(path, draw, pairs, images, known)

    def pictures(self) -> dict[str, bytes | None]:
        """Return the encoded bytes of each image by its id; None if it could not be read when it was drawn."""
        data, shown = _read(self.path, IMAGES_NAME), str(self.path / IMAGES_NAME)
        table = read_sample(data, IMAGES_NAME, shown=shown, columns=["image_id", "bytes"])
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
        return [
            read_answers(
                _read(self.path, f"{VERDICTS_FOLDER}/{name}"),
                str(folder / name),
                self.known,
                rater=name.removesuffix(SUFFIX),
            )
            for name in names
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

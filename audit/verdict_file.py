"""Reads a rater's file whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from pseudoris.audit.verdict_lines import (
    VERDICTS_VERSION,
    Answer,
    HeaderLine,
    Line,
    MissedLine,
    VerdictLine,
    decode_line,
)
from pseudoris.schemas.errors import ConfigError

VERDICTS_FOLDER: Final = "verdicts"
SUFFIX: Final = ".jsonl"


@dataclass(frozen=True, slots=True)
class Known:
    """What an audit asks: a file that answers anything else is refused.

    Attributes:
        draw: Digest of the draw.
        pairs: Ids of all pairs.
        images: Ids of the images that are asked for missed objects.
    """

    draw: str
    pairs: Collection[str]
    images: Collection[str]


@dataclass(slots=True)
class RaterAnswers:
    """What stands of one rater's file.

    Attributes:
        rater: The rater's name.
        verdicts: The last verdict on each pair that was not undone, by pair id.
        missed: The same of images.
        num_replaced: Answers that a later one replaced.
        num_undone: Answers that were withdrawn.
        num_cut_bytes: Length of a last line that a crash cut off.
        num_bytes: Length of the file without what was cut off.
    """

    rater: str
    verdicts: dict[str, VerdictLine] = field(default_factory=dict)
    missed: dict[str, MissedLine] = field(default_factory=dict)
    num_replaced: int = 0
    num_undone: int = 0
    num_cut_bytes: int = 0
    num_bytes: int = 0

    def add(self, answer: Answer) -> None:
        """Let an answer take effect."""
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
    """Return what stands of a file's bytes; errors show `name`, the line and the value.

    Args:
        data: The bytes.
        name: The file, for errors.
        known: What the audit asks.
        rater: The rater that the file must be of; None takes any.

    Raises:
        ConfigError: It is of another draw or rater, a line was edited, or it answers what was not asked.
    """
    lines = _decoded(data, name)
    header = next(lines, None)
    if not isinstance(header, HeaderLine):
        raise ConfigError(f"{name} has no header line: it is not a file of verdicts, or its beginning was removed")
    _check_header(header, name, known, rater)
    end = data.rfind(b"\n") + 1
    answers = RaterAnswers(header.rater, num_cut_bytes=len(data) - end, num_bytes=end)
    for number, line in enumerate(lines, start=2):
        if isinstance(line, HeaderLine):
            raise ConfigError(f"{name}, line {number}: a second header. Add files one by one, do not join them")
        _check_answer(line, f"{name}, line {number}", known)
        answers.add(line)
    return answers


def _decoded(data: bytes, name: str) -> Iterator[Line]:
    previous = ""
    # What follows the last line end was cut off by a crash.
    for number, raw in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            line, previous = decode_line(raw.decode("utf-8"), previous)
        except ValueError as error:
            raise ConfigError(f"{name}, line {number}: {error}. Restore the file from a copy") from None
        yield line


def _check_header(header: HeaderLine, name: str, known: Known, rater: str | None) -> None:
    if header.version != VERDICTS_VERSION:
        raise ConfigError(
            f"{name} has version {header.version}, this package reads version {VERDICTS_VERSION}: install the version "
            "of pseudoris that wrote it"
        )
    if header.draw != known.draw:
        raise ConfigError(
            f"{name} answers the draw {header.draw[:12]}…, and this audit is the draw {known.draw[:12]}…: its pairs "
            "were drawn from another run, or another time. Add it to the audit that it was made for"
        )
    if rater is not None and header.rater != rater:
        raise ConfigError(
            f"{name} holds the verdicts of the rater {header.rater!r}. A file has the name of its rater: name it "
            f"{header.rater}{SUFFIX}, or use `pseudoris audit add`"
        )


def _check_answer(line: Answer, place: str, known: Known) -> None:
    """Return if the audit asks what the line answers; errors show `place`.

    Raises:
        ConfigError: It does not.
    """
    pair = None if isinstance(line, MissedLine) else line.pair
    image = None if isinstance(line, VerdictLine) else line.image
    if pair is not None and pair not in known.pairs:
        raise ConfigError(f"{place}: the audit has no pair {pair!r}")
    if image is not None and image not in known.images:
        raise ConfigError(f"{place}: the audit does not ask the image {image!r} for missed objects")

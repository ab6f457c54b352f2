"""`verdicts/<rater>.clicks`: where a rater clicked before any mask showed; the first click on a pair stands.

A verdict repeats its pair's click, and the report reads verdicts alone. This file is for the server: who saw the mask,
and then undid the verdict or lost the server, is not asked blind again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from pseudoris.audit.verdict_file import VERDICTS_FOLDER
from pseudoris.audit.verdict_lines import Point
from pseudoris.schemas.errors import ConfigError

SUFFIX: Final = ".clicks"
_LINE: Final[TypeAdapter[tuple[str, Point | None]]] = TypeAdapter(tuple[str, Point | None])


class BlindClicks:
    """The clicks of one rater.

    Attributes:
        clicks: (x, y) in upright pixels by pair; None where the rater did not find what the text means.
    """

    def __init__(self, audit: Path, rater: str) -> None:
        """Read the rater's clicks; a file is made with the first one.

        Raises:
            ConfigError: The file cannot be read, or a line was edited.
        """
        self._path = audit / VERDICTS_FOLDER / f"{rater}{SUFFIX}"
        self.clicks: dict[str, Point | None] = {}
        for number, line in enumerate(self._lines(), start=1):
            try:
                found = json.loads(line)
            except ValueError:
                # Cut off by a crash: it was never confirmed.
                continue
            try:
                pair, point = _LINE.validate_python(found)
            except ValidationError:
                raise ConfigError(
                    f"{self._path}, line {number}: {str(found)[:80]} is not a pair with its click. Restore "
                    "the file from a copy, or remove the line"
                ) from None
            self.clicks.setdefault(pair, point)

    def _lines(self) -> list[bytes]:
        try:
            return self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read ({error.strerror or error})") from error

    def keep(self, pair: str, click: Point | None) -> None:
        """Write a click, unless the pair has one; return when it is on disk.

        Raises:
            ConfigError: The disk refuses.
        """
        if pair in self.clicks:
            return
        try:
            with self._path.open("ab") as file:
                # A line of its own, also after one that was cut off.
                file.write(b"\n" + json.dumps([pair, click]).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written ({error.strerror or error})") from error
        self.clicks[pair] = click

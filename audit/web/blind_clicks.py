"""`verdicts/<rater>.clicks`: where a rater clicked before any mask showed; the first click on a pair stands.

A verdict repeats its pair's click, and the report reads verdicts alone. This file is for the server: who saw the mask,
and then undid the verdict or lost the server, is not asked blind again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from pseudoris.audit.verdict_file import VERDICTS_FOLDER
from pseudoris.audit.verdict_lines import Point
from pseudoris.schemas.errors import ConfigError

SUFFIX: Final = ".clicks"


class BlindClicks:
    """The clicks of one rater.

    Attributes:
        clicks: (x, y) in upright pixels by pair; None where the rater did not find what the text means.
    """

    def __init__(self, audit: Path, rater: str) -> None:
        """Read the rater's clicks; a file is made with the first one."""
        self._path = audit / VERDICTS_FOLDER / f"{rater}{SUFFIX}"
        self.clicks: dict[str, Point | None] = {}
        lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        for line in lines:
            try:
                pair, point = json.loads(line)
            except (ValueError, TypeError):
                # Cut off by a crash: it was never confirmed.
                continue
            self.clicks.setdefault(str(pair), (point[0], point[1]) if point else None)

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

"""What an export is given, what it does and what it reports, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.run import Receipt, RunHeader
from store.location import RunLocation

# Rows written so far, rows in all.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and where to.

    Attributes:
        run: Where the run lives.
        header: Its header.
        receipts: The standing ones, ordered by shard: what they name is the run.
        destination: Where the export goes; another place than the run.
        target_bytes: Size that its files should have.
        is_overwriting: Whether an export that stands there is replaced.
    """

    run: RunLocation
    header: RunHeader
    receipts: Sequence[Receipt]
    destination: RunLocation
    target_bytes: int
    is_overwriting: bool = False


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export has written, and that it was read back.

    Attributes:
        rows: By table or split.
        files: How many, by the same names.
        size_bytes: Of all files.
    """

    rows: Mapping[str, int]
    files: Mapping[str, int]
    size_bytes: int


class Export(Protocol):
    """One format. A killed export leaves no half file under a final name; the same call again finishes it."""

    @property
    def summary(self) -> str:
        """One line for the help."""

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write the export, read it back, and return what it holds.

        Raises:
            ConfigError: The destination holds something else, or cannot be written.
            TransientError: Storage failed, or what was read back is not what was written.
        """

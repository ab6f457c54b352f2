"""What all formats share: a line of the table of formats, and the job that a format's writer works on.

A writer takes images from its job, writes them, says of each mask that it wrote it, and gives back what it reads of
them; the job counts, compares, and marks the export as whole.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pseudoris.schemas.errors import ImageError
from pseudoris.store.tables.annotations import AnnotatedImage, AnnotatedMask
from pseudoris.training.exports.destination import (
    claim_destination,
    claim_numbered_destination,
    mark_whole,
    nothing_left,
)
from pseudoris.training.exports.image_files import ImageFile, image_file_of
from pseudoris.training.exports.output_files import Fingerprint
from pseudoris.training.exports.protocol import CHECKING, ExportReport, ExportRequest, OnProgress
from pseudoris.training.exports.selected_rows import UNREADABLE, TextRule

logger = logging.getLogger(__name__)

# A mask that was read back, as `Fingerprint.add` takes it: file of its image, (height, width), encoding, texts.
ReadMask = tuple[str, tuple[int, int], str, Sequence[str]]
_PROGRESS_EVERY = 100


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format. A killed export leaves no half file under a final name; the same call again finishes it.

    Attributes:
        name: As `--format` has it, and the record of the export.
        summary: One line for the help.
        reads: Names of the fields of `ExportOptions` that it reads.
        writer: Writes an export, reads it back, and reports.
        takes: Which masks and texts; `max_tokens` is what its trainers cut at, where the user names no limit.
    """

    name: str
    summary: str
    reads: frozenset[str]
    writer: Callable[[ExportJob], ExportReport]
    takes: TextRule = field(default_factory=TextRule)

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write the export, read it back, and return what it holds.

        Raises:
            ConfigError: The destination holds something else, or cannot be written; an option is not possible.
            TransientError: What was read back is not what was written.
        """
        return self.writer(ExportJob(self, request, on_progress))


class ExportJob:
    """One export on its way.

    Attributes:
        rule: Which masks and texts: what the format takes, within what the user asks for.
        dropped: What was left out, by reason.
        written: The masks that were added.
        num_images: Images that `images` yielded.
        num_encoded_anew: How many of them differ from the bytes that the run annotated.
    """

    def __init__(self, export_format: ExportFormat, request: ExportRequest, on_progress: OnProgress) -> None:
        """Begin with nothing written."""
        self.request, self.options, self.destination = request, request.options, request.destination
        self.on_progress = on_progress
        self.dropped: Counter[str] = Counter()
        self.written = Fingerprint()
        self.num_images = 0
        self.num_encoded_anew = 0
        self._name, takes, limit = export_format.name, export_format.takes, request.options.max_tokens
        self.rule = replace(
            takes,
            max_tokens=takes.max_tokens if limit is None else limit or None,
            mask_tau=request.header.config.filtering.tau if self.options.distinctive_only else None,
        )

    def claim(self, *folders: str, numbered: Callable[[int], str] | None = None) -> None:
        """Empty the destination's folders of an earlier export, and mark it as begun; see `claim_destination`."""
        if numbered is None:
            claim_destination(self.request, self._name, folders)
        else:
            claim_numbered_destination(self.request, self._name, folders, numbered)

    def images(self) -> Iterator[tuple[AnnotatedImage, ImageFile]]:
        """Yield each image with its masks and its file; one that does not decode is left out.

        Raises:
            ConfigError: Nothing of the run is left.
        """
        limits = self.request.header.config.images
        for image in self.request.annotations(
            self.dropped, rule=self.rule, with_bytes=True, on_progress=self.on_progress
        ):
            try:
                image_file = image_file_of(image, limits)
            except ImageError as error:
                logger.warning("%s is left out: %s", image.key, error)
                self.dropped[UNREADABLE] += 1
                continue
            self.num_images += 1
            self.num_encoded_anew += image_file.is_encoded_anew
            yield image, image_file
        if not self.num_images:
            raise nothing_left(self.request, self.dropped)

    def add(self, name: str, mask: AnnotatedMask, counts: str | None = None) -> list[str]:
        """Count a mask as written, and return its texts; `counts` is the encoding of its pixels, if those are kept."""
        texts = [expression.text for expression in mask.expressions]
        self.written.add(name, mask.rle_size, counts or mask.rle_counts, texts)
        return texts

    def check(self, masks: Iterable[ReadMask], where: str) -> None:
        """Compare what is read back with what was added: masks, texts, and their order."""
        found = Fingerprint()
        for mask in masks:
            found.add(*mask)
            if found.num_masks % _PROGRESS_EVERY == 0:
                self.on_progress(found.num_masks, self.written.num_masks, CHECKING)
        self.on_progress(found.num_masks, self.written.num_masks, CHECKING)
        self.written.check_equals(found, where)

    def sizes(self, *paths: str) -> int:
        """Return the bytes of written files together."""
        return sum(self.destination.size(path) or 0 for path in paths)

    def encoded_anew_notes(self) -> list[str]:
        """Return the note on images that no longer have the bytes that were annotated, if there are any."""
        number = self.num_encoded_anew
        return [f"{number:,} image(s) were encoded again, upright and with three channels."] if number else []

    def report(
        self,
        rows: Mapping[str, int],
        files: Mapping[str, int],
        size_bytes: int,
        *,
        notes: Sequence[str] = (),
        checked: Sequence[str],
        **facts: str,
    ) -> ExportReport:
        """Mark the export as whole, with `facts` about it beside its rows, and return its report."""
        mark_whole(self.request, self._name, {**facts, "rows": dict(rows), "dropped": dict(self.dropped)})
        return ExportReport(rows, files, size_bytes, self.dropped, notes, checked)

"""What an export is given: which run, where to, and the options of its format; and what it reports when it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pseudoris.schemas.run_records import Receipt, RunHeader
from pseudoris.store.exclusions.exclusion_rules import Exclusions
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.annotations import AnnotatedImage, iter_annotations
from pseudoris.training.exports.selected_rows import ExcludedImages, Selection, TextRule, with_source_bytes

WRITING: Final = "writing"
CHECKING: Final = "reading back"
_BYTES_PER_MB: Final = 10**6


class OnProgress(Protocol):
    """Receives the progress of an export."""

    def __call__(self, done: int, total: int, /, stage: str = WRITING) -> None:
        """Take how much of a stage is done, and the total: rows, images or masks."""


@dataclass(frozen=True, slots=True)
class HumanAnnotation:
    """A REFER dataset whose human references join an export.

    Attributes:
        refs: Local path of its `refs(<splitBy>).p`.
        instances: Local path of its `instances.json`.
        splits: Which references: those of these splits.
        images: Local folder of its images, to be copied into the export; None leaves them where they are.
    """

    refs: str
    instances: str
    splits: tuple[str, ...] = ("val", "test", "testA", "testB")
    images: str | None = None


def _option(default: Any, text: str, **bounds: float) -> Any:
    return field(default=default, metadata={"help": text, **bounds})


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of formats, with their help and bounds as the command line gives them; `ExportFormat.reads` names whose.

    Attributes:
        human: Human annotation to merge; None for none.
    """

    max_tokens: int | None = _option(
        None,
        "Leave out expressions with more CLIP tokens, start and end included. 0 keeps all. Default: the limit of the "
        "format's trainers.",
        min=0,
    )
    dataset: str | None = _option(None, "Dataset name that the trainer asks for.")
    split: str = _option("train", "Name of the split that the run is written as.")
    split_by: str = _option("pseudo", "refer: name in the brackets of refs(<split-by>).p.")
    human: HumanAnnotation | None = None
    target_mb: float = _option(
        256, "Size of a file in MB (parquet, hf, webdataset). 128 to 512 suits most readers.", min=1, max=4_096
    )
    distinctive_only: bool = _option(
        False,
        "pseudo-ris-csv: leave out masks without a candidate above tau. Of such a mask the authors' trainer draws any "
        "candidate.",
    )

    @property
    def target_bytes(self) -> int:
        """Size that files should have, where the format has files of a free size."""
        return int(self.target_mb * _BYTES_PER_MB)


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and where to.

    Attributes:
        run: Where the run lives.
        header: Its header.
        receipts: The latest receipts, ordered by shard; the parts that they name are the run.
        destination: Where the export goes; another place than the run.
        options: Of the format.
        is_overwriting: Whether an existing export is replaced.
        source: Where the images are now, if they are not embedded; None uses the header's SOURCE.
        exclusions: Images to leave out, with all that belongs to them.
    """

    run: RunLocation
    header: RunHeader
    receipts: Sequence[Receipt]
    destination: RunLocation
    options: ExportOptions = field(default_factory=ExportOptions)
    is_overwriting: bool = False
    source: str | None = None
    exclusions: Exclusions = ()

    def annotations(
        self,
        dropped: Counter[str],
        *,
        rule: TextRule,
        with_bytes: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Iterator[AnnotatedImage]:
        """Yield the images with the masks and expressions that a rule takes (`Selection`), in plan order.

        A second call yields the same, except images that were removed from SOURCE in between. Memory is bounded by one
        shard, with its encoded images if they are requested.

        Args:
            dropped: Gains by reason what was left out.
            rule: Which masks and texts.
            with_bytes: Fill in each image's `data`; see `with_source_bytes`.
            on_progress: Called after each image of the run, yielded or not.

        Raises:
            ConfigError: A part, or SOURCE as a whole, is missing.
        """
        take, excluded = Selection(rule, dropped), self.excluded_images()
        report = on_progress or (lambda done, total: None)
        total, num_done = self.num_images, 0
        for receipt in self.receipts:
            left_out = excluded.of_shard(receipt)
            dropped.update(left_out.values())
            options = {"kept_only": rule.is_kept_only, "with_bytes": with_bytes, "with_samples": rule.with_samples}
            found = (each for each in iter_annotations(self.run, [receipt], **options) if each.image_id not in left_out)
            # Filtered before their bytes are read: images without a remaining mask are not read.
            wanted = [image for image in map(take.image, found) if image is not None]
            read = with_source_bytes(self.run, self.header, wanted, dropped, source=self.source)
            num_done += receipt.counts.annotated + receipt.counts.empty
            for number, image in enumerate(read if with_bytes else wanted, num_done - len(wanted) + 1):
                yield image
                report(number, total)
            report(num_done, total)

    def excluded_images(self) -> ExcludedImages:
        """Return what finds the images to leave out."""
        return ExcludedImages(self.run, self.header, self.exclusions, source=self.source)

    @property
    def num_images(self) -> int:
        """Images of the run that are not quarantined."""
        return sum(receipt.counts.annotated + receipt.counts.empty for receipt in self.receipts)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The contents of a written export, after reading it back.

    Attributes:
        rows: By table or split.
        files: How many, by the same names.
        size_bytes: Size of all files together.
        dropped: How many items were left out, by a phrase that names them and the reason; nothing is dropped in
            silence.
        notes: Sentences that the user needs to put the export to use.
        checked: Checks that passed when the export was read back, a phrase each.
    """

    rows: Mapping[str, int]
    files: Mapping[str, int]
    size_bytes: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    checked: Sequence[str] = ()

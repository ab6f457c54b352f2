"""What each export of `EXPORTS` implements (`Export`), is given (`ExportRequest`) and returns (`ExportReport`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from pseudoris.schemas.run_records import Receipt, RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.sources.exclusions import Exclusions
from pseudoris.store.tables.annotations import AnnotatedImage
from pseudoris.training.exports.selected_rows import ExcludedImages, TextRule, iter_selected

WRITING: Final = "writing"
CHECKING: Final = "reading back"
DEFAULT_SPLIT: Final = "train"
DEFAULT_SPLIT_BY: Final = "pseudo"


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


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of formats of images, masks and expressions; `Export.reads` names those that a format reads.

    Attributes:
        max_tokens: Longest expression kept, in CLIP tokens with start and end; None keeps all.
        dataset: Name under which a trainer asks for it; None is the format's own default.
        split: Name of the split that the run becomes.
        split_by: The name of its split, `refs(<split_by>).p`.
        human: Human annotation to merge; None for none.
        distinctive_only: Whether masks without an expression above tau are left out, of a format that holds every
            candidate.
    """

    max_tokens: int | None = None
    dataset: str | None = None
    split: str = DEFAULT_SPLIT
    split_by: str = DEFAULT_SPLIT_BY
    human: HumanAnnotation | None = None
    distinctive_only: bool = False


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and where to.

    Attributes:
        run: Where the run lives.
        header: Its header.
        receipts: The latest receipts, ordered by shard; the parts that they name are the run.
        destination: Where the export goes; another place than the run.
        target_bytes: Size that its files should have, where the format has files of a free size.
        is_overwriting: Whether an existing export is replaced.
        source: Where the images are now, if they are not embedded; None uses the header's SOURCE.
        options: For formats of images, masks and expressions.
        exclusions: Images to leave out, with all that belongs to them.
    """

    run: RunLocation
    header: RunHeader
    receipts: Sequence[Receipt]
    destination: RunLocation
    target_bytes: int
    is_overwriting: bool = False
    source: str | None = None
    options: ExportOptions = field(default_factory=ExportOptions)
    exclusions: Exclusions = field(default_factory=Exclusions)

    def annotations(
        self,
        dropped: Counter[str],
        *,
        rule: TextRule | None = None,
        with_bytes: bool = False,
        keeps_bare_masks: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Iterator[AnnotatedImage]:
        """Yield what the format takes, in plan order: images, their masks, the kept expressions that fit the rule.

        A second call yields the same, except images that were removed from SOURCE in between. Memory is bounded by one
        shard, with its encoded images if they are requested.

        Args:
            dropped: Gains by reason what was left out, as `iter_selected` counts it.
            rule: Which texts; by default those of at most `options.max_tokens`.
            with_bytes: Fill in each image's `data`: the embedded bytes, else those of SOURCE, which are the annotated
                ones by their sha256; an image that is missing or changed there is left out and counted.
            keeps_bare_masks: Yield masks, and images, also without an expression.
            on_progress: Called after each image of the run.

        Raises:
            ConfigError: A part, or SOURCE as a whole, is missing.
        """
        chosen = TextRule(max_tokens=self.options.max_tokens) if rule is None else rule
        return iter_selected(
            self.run,
            self.header,
            self.receipts,
            dropped,
            rule=chosen,
            with_bytes=with_bytes,
            source=self.source,
            keeps_bare_masks=keeps_bare_masks,
            excluded=self.excluded_images().of_shard if self.exclusions else None,
            on_image=(lambda done: on_progress(done, self.num_images)) if on_progress else None,
        )

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


class Export(Protocol):
    """One format. A killed export leaves no half file under a final name; the same call again finishes it."""

    @property
    def summary(self) -> str:
        """One line for the help."""

    @property
    def reads(self) -> frozenset[str]:
        """Names of the fields of `ExportOptions` that it reads, and `target_bytes` if it reads that."""

    @property
    def default_max_tokens(self) -> int | None:
        """`ExportOptions.max_tokens` where the user names none: what the format's trainers cut at, or None."""

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write the export, read it back, and return what it holds.

        Raises:
            ConfigError: The destination holds something else, or cannot be written; an option is not possible.
            TransientError: Storage failed, or what was read back is not what was written.
        """

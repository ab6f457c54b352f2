"""An export's options, request and report. Called by all formats; `cli/export.py` makes its help of them.

Requests of equal digests give equal rows: a push finds by it what an earlier one began. Users depend on `ExportReport`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports.selected_rows import UNCHECKED, UNREADABLE, ExcludedImages
from pseudoris.interchange.human_refs import HumanAnnotation
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.exclusion_rules import Exclusions
from pseudoris.store.runs.held_out_pictures import TRAIN
from pseudoris.store.runs.receipts import RootDigest
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import OpenRun


def _option(default: Any, text: str, **bounds: float) -> Any:
    return field(default=default, metadata={"help": text, **bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
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
    split: str | None = _option(
        None, "Name of the split that the run is written as; of a run with splits, the one to write. Default: all."
    )
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
    masks: str | None = _option(
        None, "refer: form of the masks: polygon (one each, which pycocotools fills exactly), or rle."
    )
    layout: str | None = _option(
        None, "hf: masks (a list of structs), or objects (a struct of lists, as detectors read)."
    )
    license: str | None = _option(None, "hf: licence of the images, as the Hub names it: cc-by-4.0, other, …")
    coordinates: str | None = _option(None, "llamafactory, qwen: frame of the boxes: norm1000, real, or resized.")
    resize_factor: int | None = _option(None, "--coordinates resized: multiple of the sides, 28 or 32.", min=1)
    min_pixels: int | None = _option(None, "--coordinates resized: smallest area that the trainer is given.", min=1)
    max_pixels: int | None = _option(None, "--coordinates resized: largest area that the trainer is given.", min=1)
    rewording: int = _option(
        0, 'All but label-studio: up to N other forms of each expression, and no "a photo of".', min=0, max=10
    )
    any_targets: bool = _option(
        False, "odvg: also expressions of several objects and of none, which Open-GroundingDINO misreads."
    )

    @property
    def target_bytes(self) -> int:
        """Size that files should have, where the format has files of a free size."""
        return int(self.target_mb * 10**6)

    @classmethod
    def named(cls, given: Mapping[str, Any]) -> Self:
        """Return the options of these names among `given`, such as the arguments of a function."""
        return cls(**{each.name: given[each.name] for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and where to: a place outside the run.

    `source` is where images are now that are not embedded, of a combined run by name; None uses the header's SOURCE.
    """

    run: OpenRun
    destination: RunLocation
    options: ExportOptions = field(default_factory=ExportOptions)
    is_overwriting: bool = False
    source: str | Mapping[str, str] | None = None
    exclusions: Exclusions = ()

    @property
    def num_images(self) -> int:
        """Images of the run that are not quarantined."""
        return sum(each.counts.num_shown for each in self.run.receipts)

    @property
    def has_splits(self) -> bool:
        """Whether each image of the run has its own split."""
        return self.run.header.splits is not None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are written: the one that was named, else those of the run, or `train` if it has none."""
        held = self.run.header.splits
        if self.options.split is not None or held is None:
            return (self.options.split or TRAIN,)
        return tuple(filter(None, held.images))

    @property
    def digest(self) -> str:
        """sha256 of the run's content and the options: equal for two exports with the same rows."""
        root = RootDigest(self.run.header, self.run.receipts)
        rules = [(rule.kind, rule.settings, rule.values_sha256) for rule in self.exclusions]
        # Without rewording, the digest equals that of older versions, so a push recognises what an older version began.
        options = {name: value for name, value in asdict(self.options).items() if name != "rewording" or value}
        if not self.has_splits:
            options["split"] = self.splits[0]
        return sha256_hex(json.dumps([root.hexdigest(), options, rules], sort_keys=True).encode())

    @property
    def excluded_images(self) -> ExcludedImages:
        """What finds the images to leave out."""
        planned = PlannedImages(self.run.location, self.run.header, source=self.source)
        return ExcludedImages(planned, self.run.header, self.exclusions)


# At most this many images that are missing from SOURCE are named.
MAX_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The contents of a written export, after its checks.

    Attributes:
        rows: By table or split.
        files: How many, by the same names.
        size_bytes: Size of all files together, without `croissant.json` and `_export.json`.
        dropped: How many items were left out, by a phrase that names them and the reason; nothing is dropped in
            silence.
        notes: Sentences that the user needs to put the export to use.
        checked: Checks that passed, a phrase each: of the records, decoded while they were written, and of the bytes
            that are stored, read once at the end. Of more than 100,000 small files these are a sample, and it says so.
        unread: Keys of the first `MAX_NAMED` images that are left out because they are missing from SOURCE, or changed.
    """

    rows: Mapping[str, int]
    files: Mapping[str, int]
    size_bytes: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    checked: Sequence[str] = ()
    unread: Sequence[str] = ()

    @property
    def num_unread(self) -> int:
        """How many images are left out because they are missing from SOURCE, or changed there."""
        return sum(self.dropped.get(reason, 0) for reason in (UNREADABLE, UNCHECKED))

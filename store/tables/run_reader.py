"""`pseudoris.Run`, on which users depend: header, counts, committed tables as pyarrow datasets. `cli` uses it too."""

from __future__ import annotations

import random
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, check_number
from pseudoris.primitives.templates import html_text
from pseudoris.primitives.threads import map_in_threads
from pseudoris.primitives.uris import whole_number
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.run_records import PartRecord, RunHeader
from pseudoris.schemas.tables import EXPRESSIONS, FAILURES, IMAGES, MASKS, SCHEMAS, SCHEMAS_OF_5
from pseudoris.store.runs.receipts import READERS, RunTotals, Totals, part_path
from pseudoris.store.tables.annotations import AnnotatedImage, iter_annotations
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import COLUMNS, COLUMNS_BESIDE, DAMAGED_IMAGES, CommittedShard, OpenRun
from pseudoris.store.tables.parts import RowFilter, part_sizes, read_whole, refuse_lost
from pseudoris.store.tables.run_image import RunImage

if TYPE_CHECKING:
    import pandas


def draw_rows(counts: Sequence[int], size: int, seed: int) -> dict[int, list[int]]:
    """Return the drawn row numbers by shard: one row of each of `size` equal stretches. Shard s has `counts[s]` rows.

    Each row of a stretch is equally likely. Shards and rows are in ascending order.
    """
    ends = list(accumulate(counts))
    total = ends[-1] if ends else 0
    size = min(size, total)
    draw = random.Random(seed)
    chosen: defaultdict[int, list[int]] = defaultdict(list)
    shard = 0
    for number in range(size):
        position = draw.randrange(number * total // size, (number + 1) * total // size)
        while position >= ends[shard]:
            shard += 1
        chosen[shard].append(position - ends[shard] + counts[shard])
    return dict(chosen)


def _field(name: str) -> pa.Field:
    table = EXPRESSIONS if name in SCHEMAS[EXPRESSIONS].names else IMAGES if name in COLUMNS_BESIDE[IMAGES] else MASKS
    field = SCHEMAS[table].field(name).with_nullable(True)
    if not pa.types.is_struct(field.type):
        return field
    # All fields of a struct are nullable, because they are null in rows that do not refer to exactly one mask.
    return field.with_type(pa.struct([inner.with_nullable(True) for inner in field.type]))


# A notebook shows at most this many images of a run.
_NUM_SHOWN: Final = 3
SAMPLE_COLUMNS: Final = ("key", "text", "distinctiveness", "correctness", "mask_id", "segmentation")


class Run:
    """A snapshot of a run, finished or not, taken when it is opened. Nothing is written.

    `run[i]` is the i-th image that is not quarantined, in plan order, and `len(run)` how many there are.
    All tables of one `Run` show the same commits. To see later commits, open the run again. Files that no receipt names
    are never read, so you can read a run while it grows, and before `gc`.

    Attributes:
        out: Absolute path, or url, of the run's folder.
        header: What the run was planned with: SOURCE, configuration, identity, numbers of images and shards.
    """

    def __init__(self, location: RunLocation, *, source: str | Mapping[str, str] | None = None) -> None:
        """Open the run at `location` with one listing; ConfigError if none was started there. No part is read.

        `source` says where the images are now.
        """
        self.out = location.root
        self._opened = OpenRun.at(location)
        self.header: RunHeader = self._opened.header
        # Retries are short, because a notebook must not wait minutes for a bucket that is gone.

        def hasty(config: RunConfig) -> RunConfig:
            storage = config.placement.storage.hasty()
            return config.model_copy(update={"placement": config.placement.model_copy(update={"storage": storage})})

        self._pictures = PlannedImages(location, self.header.with_configs(hasty), source=source)
        # Holds the index of the shard that was read last (-1 for none), and its images.
        self._last: tuple[int, list[RunImage]] = (-1, [])

    def __repr__(self) -> str:
        return f"Run({self.out!r}, {len(self._opened.receipts)} of {self.header.num_shards} shards)"

    def __len__(self) -> int:
        """Return the number of committed images that are not quarantined."""
        return (self._contents.image_ends or [0])[-1]

    def __getitem__(self, index: int) -> RunImage:
        """Return an image; negative indices count from the end. Reads one shard, and keeps it for the next image."""
        place, size = whole_number(index, "run"), len(self)
        if not -size <= place < size:
            raise IndexError(f"there is no image {place}: {self.out} has {size} that are not quarantined")
        place %= size
        ends = self._contents.image_ends
        at = bisect_right(ends, place)
        if self._last[0] != at:
            shard = self._opened.shard(at)
            settings = self.header.of_shard(shard.receipt.shard).config.images
            found = [RunImage(each, partial(self._load, shard, each), settings) for each in iter_annotations([shard])]
            self._last = (at, found)
        # `place - ends[at]` is negative, because it counts from the end of the shard's images.
        return self._last[1][place - ends[at]]

    def _load(self, shard: CommittedShard, image: AnnotatedImage) -> bytes:
        """Return the encoded bytes of an image of a shard."""
        keep = RowFilter(ds.field("image_id") == image.image_id, ("image_id",))
        found = shard.table(IMAGES, ("key", "sha256", "bytes"), keep).to_pylist()
        if not found:
            raise ConfigError(DAMAGED_IMAGES.format(shard.receipt.shard))
        return self._pictures.annotated(shard.receipt.shard, found[0])

    def _repr_html_(self) -> str:
        counts = self.counts
        facts = (
            f"{self!r} of {self.header.source}",
            f"{counts.annotated:,} images annotated, {counts.empty:,} empty, {counts.quarantined:,} quarantined",
            f"{counts.masks:,} masks, {counts.kept:,} of {counts.expressions:,} expressions kept",
        )
        pictures = (self[at]._repr_html_(200, with_texts=False) for at in range(min(_NUM_SHOWN, len(self))))
        return f"<div>{''.join(f'{html_text(fact)}<br>' for fact in facts)}{''.join(pictures)}</div>"

    def to_pandas(self, *, columns: Sequence[str] = SAMPLE_COLUMNS, kept_only: bool = True) -> pandas.DataFrame:
        """Return the expressions as a pandas DataFrame, a row each, in plan order; arguments as of `sample`."""
        if find_spec("pandas") is None:
            raise ConfigError("to_pandas() needs pandas: run `pip install pandas`")
        frame: pandas.DataFrame = self.sample(sys.maxsize, columns=columns, kept_only=kept_only).to_pandas()
        return frame

    @property
    def is_complete(self) -> bool:
        """Whether every planned shard is committed."""
        return self._opened.is_complete

    @property
    def counts(self) -> RunTotals:
        """Sums over the committed shards: images by status, masks, expressions, kept, bytes."""
        return self._contents.totals

    def images(self) -> ds.Dataset:
        """Return the table of images: one row per input image, in plan order, with its status, size and sha256."""
        return self._dataset(IMAGES)

    def masks(self) -> ds.Dataset:
        """Return the table of masks: COCO RLE, box, area and scores, in upright pixels."""
        return self._dataset(MASKS)

    def expressions(self) -> ds.Dataset:
        """Return the table of expressions: every one with its scores; `kept` says which the run keeps."""
        return self._dataset(EXPRESSIONS)

    def failures(self) -> ds.Dataset:
        """Return the table of failures: one row per quarantined image, with its reason."""
        return self._dataset(FAILURES)

    def sample(
        self, num_rows: int = 20, *, columns: Sequence[str] = SAMPLE_COLUMNS, seed: int = 0, kept_only: bool = True
    ) -> pa.Table:
        """Return expressions in plan order, one drawn from each of `num_rows` equal stretches of the run.

        Args:
            num_rows: Number of rows; fewer if the run has fewer.
            columns: In the order of the result. Any column of the expressions table; `key`, `height`, `width`, `sha256`
                of the image; `mask_id`, `segmentation`, `box_xyxy_px`, `area_px`, `predicted_iou`, `stability_score`,
                `prior` of the mask.
            seed: The same committed run and seed give the same rows.
            kept_only: True draws from kept expressions, False from all candidates.

        Raises:
            ConfigError: A column or number of rows makes no sense, or a part is missing or too short.
        """
        check_number("num_rows", num_rows, 0)
        unknown = [name for name in columns if name not in COLUMNS]
        if unknown or not columns:
            raise ConfigError(f"there is no column {' '.join(unknown[:1])!r}: give some of {', '.join(COLUMNS)}")
        repeated = [name for number, name in enumerate(columns) if name in columns[:number]]
        if repeated:
            raise ConfigError(f"the column {repeated[0]!r} is asked for twice: give it once")
        counts = [each.counts.kept if kept_only else each.counts.expressions for each in self._opened.receipts]
        schema = pa.schema([_field(name) for name in columns])
        own = [name for name in columns if name in SCHEMAS[EXPRESSIONS].names]
        of = {name: [each for each in columns if each in known] for name, known in COLUMNS_BESIDE.items()}
        found = [schema.empty_table()]
        for at, rows in draw_rows(counts, num_rows, seed).items():
            shard = self._opened.shard(at)
            table = shard.table(EXPRESSIONS, tuple(dict.fromkeys([*own, "image_id", "target_mask_ids", "kept"])))
            if kept_only:
                table = table.filter(table["kept"])
            if rows[-1] >= table.num_rows:
                number = shard.receipt.shard
                raise ConfigError(f"shard {number} has fewer expressions than its receipt says: run `pseudoris verify`")
            table = table.take(rows)
            columns_of = {**{name: table[name] for name in own}, **shard.beside(table, of)}
            found.append(pa.table({name: columns_of[name] for name in columns}).cast(schema))
        return pa.concat_tables(found)

    def _dataset(self, table: str) -> ds.Dataset:
        # Parts are opened by the names in receipts, because a listing would also find replaced or uncommitted files.
        location, parts = self._opened.location, self._contents.parts[table]
        if "://" not in location.root:
            sizes = part_sizes(location, [table])[table]
            for part in parts:
                # A part that is not a file is refused here: Arrow would wait forever for a pipe.
                refuse_lost(location, table, part, sizes)
        return _PartsDataset(location, table, parts)

    @cached_property
    def _contents(self) -> _Contents:
        totals, shown = Totals(), []
        parts: dict[str, list[PartRecord]] = {table: [] for table in SCHEMAS}
        for receipt in self._opened.receipts:
            totals.add(receipt)
            shown.append(receipt.counts.num_shown)
            for table in SCHEMAS:
                parts[table].append(receipt.parts[table])
        return _Contents(totals.sum(), parts, list(accumulate(shown)))


class _Contents(NamedTuple):
    """What one pass over the receipts gives: sums, parts by table, and the images that are shown up to each shard."""

    totals: RunTotals
    parts: Mapping[str, list[PartRecord]]
    image_ends: list[int]


def _proven(name: str) -> Any:
    def read(dataset: _PartsDataset, *arguments: Any, **options: Any) -> Any:
        if name in ("count_rows", "scanner", "take", "to_table"):
            # A column or filter that the table does not have is told here, before the parts are read to find damage.
            ds.FileSystemDataset.scanner(dataset, **options)
        with dataset._told():
            return getattr(ds.FileSystemDataset, name)(dataset, *arguments, **options)

    return read


class _PartsDataset(ds.FileSystemDataset):  # type: ignore[misc]  # pyarrow has no types
    """The parts of a table. What Arrow cannot read of one is told as every reader tells it, with the remedy."""

    def __init__(self, location: RunLocation, table: str, parts: Sequence[PartRecord]) -> None:
        checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        form = ds.ParquetFileFormat(default_fragment_scan_options=checked)
        # Both file systems read paths of the form `location.uri(path)`, and can be pickled for workers of a data
        # loader.
        files = fs.PyFileSystem(_RunFiles(location)) if "://" in location.root else fs.LocalFileSystem()
        fragments = [form.make_fragment(location.uri(part_path(table, part)), files) for part in parts]
        super().__init__(fragments, SCHEMAS[table], form, files)
        self._made_of, self._unproven = (location, table, parts), dict(enumerate(fragments))
        self._fragments = fragments

    def __reduce__(self) -> Any:
        # A filtered dataset cannot be pickled, because its filter would be lost, so Arrow's method raises the error.
        return super().__reduce__() if self._scan_options else (_PartsDataset, self._made_of)

    @contextmanager
    def _told(self, end: int = sys.maxsize) -> Iterator[None]:
        """Compare the footers before `end`, once, with what their parts must hold: footers have no checksums."""
        location, table, parts = self._made_of
        known = (SCHEMAS[table], SCHEMAS_OF_5[table])
        try:
            # Footers are compared before the scan, which reuses them, because Arrow returns nulls for a renamed column.
            some = {number: each for number, each in tuple(self._unproven.items()) if number < end}
            read = map_in_threads(lambda each: (each.physical_schema, each.metadata), some.values(), READERS)
            for number, (schema, metadata) in zip(some, read, strict=True):
                if any(map(schema.equals, known)) and metadata.num_rows == parts[number].rows:
                    self._unproven.pop(number, None)
                else:
                    read_whole(location, table, parts[number])
            yield
        except (pa.ArrowException, OSError):
            for part in parts:
                read_whole(location, table, part)
            raise

    count_rows, get_fragments, scanner, sort_by, take, to_table = map(
        _proven, ("count_rows", "get_fragments", "scanner", "sort_by", "take", "to_table")
    )

    def to_batches(self, **options: Any) -> Iterator[pa.RecordBatch]:
        super().scanner(**options)
        with self._told():
            yield from super().to_batches(**options)

    def head(self, num_rows: int, **options: Any) -> pa.Table:
        # Parts are read one by one, because a few rows need few footers. Arrow's `head` would read further parts ahead.
        found = [super().scanner(**options).projected_schema.empty_table()]
        for number, fragment in enumerate(self._fragments):
            with self._told(number + 1):
                found.append(fragment.head(num_rows - sum(map(len, found)), **self._scanner_options(options)))
            if sum(map(len, found)) >= num_rows:
                break
        return pa.concat_tables(found)

    def filter(self, expression: pc.Expression) -> _PartsDataset:
        found: _PartsDataset = super().filter(expression)
        found._made_of, found._unproven, found._fragments = self._made_of, self._unproven, self._fragments
        return found


class _RunFiles(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """Reads the files of one run by their full paths or uris."""

    def __init__(self, location: RunLocation) -> None:
        self._location = location

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _RunFiles) and other._location.root == self._location.root

    def __hash__(self) -> int:
        return hash(self._location.root)

    def get_type_name(self) -> str:
        return "pseudoris"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        sizes = [self._location.size(self._relative(path)) for path in paths]
        return [
            fs.FileInfo(path, fs.FileType.NotFound if size is None else fs.FileType.File, size=size)
            for path, size in zip(paths, sizes, strict=True)
        ]

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(self._location.open_input(self._relative(path)), mode="r")

    open_input_stream = open_input_file

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._location.uri("x").removesuffix("x"))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("this filesystem is read-only: it does not change the files of a run")

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse

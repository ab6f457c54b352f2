"""A run to read from Python: its header, its counts, and its tables as pyarrow datasets over the committed parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NoReturn

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import PartRecord, RunHeader
from pseudoris.schemas.tables import EXPRESSIONS, FAILURES, IMAGES, MASKS, SCHEMAS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import LatestReceipts
from pseudoris.store.runs.receipts import RunTotals, Totals, part_path
from pseudoris.store.tables.expression_sample import sample_expressions

SAMPLE_COLUMNS: Final = ("key", "text", "distinctiveness", "correctness", "mask_id", "segmentation")


class Run:
    """A snapshot of a run, finished or not, taken when it is opened. Nothing is written.

    All tables of one `Run` show the same commits. To see later commits, open the run again. Files that no receipt names
    are never read, so you can read a run while it grows, and before `gc`.

    Attributes:
        out: Absolute path, or url, of the run's folder.
        header: What the run was planned with: SOURCE, configuration, identity, numbers of images and shards.
    """

    def __init__(self, location: RunLocation) -> None:
        """Open the run at `location` with one listing. No part is read.

        Raises:
            ConfigError: No run was started there.
        """
        self.out = location.root
        self.header: RunHeader = require_header(location)
        self._location = location
        self._receipts = LatestReceipts.listed(location)

    def __repr__(self) -> str:
        return f"Run({self.out!r}, {len(self._receipts)} of {self.header.num_shards} shards)"

    @property
    def is_complete(self) -> bool:
        """Whether every planned shard is committed."""
        return len(self._receipts) == self.header.num_shards

    @property
    def counts(self) -> RunTotals:
        """Sums over the committed shards: images by status, masks, expressions, kept, bytes."""
        return self._contents[0]

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
        """Return expressions drawn evenly over the run, with columns of their image and their mask.

        Args:
            num_rows: Number of rows; fewer if the run has fewer.
            columns: Any column of the expressions table; `key`, `height`, `width`, `sha256` of the image; `mask_id`,
                `segmentation`, `box_xyxy_px`, `area_px`, `predicted_iou`, `stability_score`, `prior` of the mask.
            seed: The same run and seed give the same rows.
            kept_only: True draws from kept expressions, False from all candidates.

        Raises:
            ConfigError: There is no such column, or a part is missing.
        """
        return sample_expressions(
            self._location, num_rows, columns=columns, seed=seed, kept_only=kept_only, receipts=self._receipts
        )

    def _dataset(self, table: str) -> ds.Dataset:
        # Parts by name: a listing of the folder would also find files that were never committed, or were replaced.
        paths = [part_path(table, part) for part in self._contents[1][table]]
        for path in paths:
            # Arrow would wait forever for the writer of a pipe.
            if found := self._location.obstacle(path):
                raise ConfigError(f"{self._location.uri(path)} is {found}, not a part of the table: restore the file")
        return ds.FileSystemDataset.from_paths(
            [self._location.uri(path) for path in paths],
            schema=SCHEMAS[table],
            format=ds.ParquetFileFormat(),
            filesystem=arrow_filesystem(self._location),
        )

    @cached_property
    def _contents(self) -> tuple[RunTotals, Mapping[str, list[PartRecord]]]:
        """Sums and parts by table, in the order of the plan, from one pass over the receipts."""
        totals = Totals()
        parts: dict[str, list[PartRecord]] = {table: [] for table in SCHEMAS}
        for receipt in self._receipts:
            totals.add(receipt)
            for table in SCHEMAS:
                parts[table].append(receipt.parts[table])
        return totals.sum(), parts


_READ_ONLY: Final = "this filesystem is read-only: it does not change the files of a run"


def arrow_filesystem(location: RunLocation) -> fs.FileSystem:
    """Return a filesystem that reads paths of the form `location.uri(path)`. On a disk it is pyarrow's own, faster one.

    It can be pickled, so that the workers of a data loader can receive a dataset that uses it.
    """
    return fs.PyFileSystem(_RunFiles(location)) if "://" in location.root else fs.LocalFileSystem()


class _RunFiles(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """Reads the files of one run by their full paths or uris."""

    def __init__(self, location: RunLocation) -> None:
        self._location = location

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _RunFiles) and other._location.root == self._location.root

    def __hash__(self) -> int:
        return hash(self._location.root)

    def get_type_name(self) -> str:
        """Return the name of this type of filesystem."""
        return "pseudoris"

    def normalize_path(self, path: str) -> str:
        """Return the path unchanged: it is absolute already."""
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Return kind and size of each file."""
        sizes = [self._location.size(self._relative(path)) for path in paths]
        return [
            fs.FileInfo(path, fs.FileType.NotFound if size is None else fs.FileType.File, size=size)
            for path, size in zip(paths, sizes, strict=True)
        ]

    def open_input_file(self, path: str) -> pa.NativeFile:
        """Return the file opened for random access."""
        return pa.PythonFile(self._location.open_input(self._relative(path)), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """Return the file opened for reading from the start."""
        return self.open_input_file(path)

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._location.uri("x").removesuffix("x"))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(_READ_ONLY)

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse

"""The items of a listing of SOURCE, an image and its place each, and the counts of what is left out.

Made by `store/sources`; whatever plans a run takes them. A key is relative to SOURCE's root, so that a moved SOURCE has
the same ids.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from pseudoris.primitives.extras import install
from pseudoris.primitives.untrusted import HEIF_EXTENSIONS, HEIF_PLUGIN


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One listed input image; `tables.PLAN_SCHEMA` documents the fields that the plan has too. Null is None.

    Attributes:
        key: Percent-encoded, relative to SOURCE's root: `a/b.jpg`, `tar!member`, `file#row`.
        size_bytes: None for Parquet rows and broken links.
        boundary: A shard only holds items with the same boundary: a tar's key, or a Parquet file's key and row group;
            None for plain files.
        mean_bytes: Mean bytes of a row of its row group, by the footer; None for uris and other images.
    """

    key: str
    size_bytes: int | None = None
    etag: str | None = None
    mtime_ns: int | None = None
    offset_bytes: int | None = None
    row_group: int | None = None
    row: int | None = None
    boundary: str | None = None
    mean_bytes: int | None = None

    @property
    def expected_bytes(self) -> int:
        """Expected size of the encoded image; 0 if it is unknown."""
        return self.size_bytes or self.mean_bytes or 0


_TO_CONVERT: Final = frozenset(
    {".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".psd", ".svg", ".exr", ".hdr", ".pdf"}
)
# What gets pictures out of files of volumes, slides and series.
_TO_EXTRACT: Final = {
    ".dcm": "write each slice as PNG or TIFF (pydicom), and give the range of its values as images.window",
    ".nii": "write each slice as PNG or TIFF (nibabel), and give the range of its values as images.window",
    ".nii.gz": "write each slice as PNG or TIFF (nibabel), and give the range of its values as images.window",
    ".svs": "write a level as TIFF (openslide), and cut it by `pseudoris tile`",
    ".ndpi": "write a level as TIFF (openslide), and cut it by `pseudoris tile`",
    ".mp4": "write its frames as JPEG (ffmpeg)",
    ".mov": "write its frames as JPEG (ffmpeg)",
}
_SHOWN: Final = 8
_MAX_EXTENSIONS: Final = 200
_MAX_LETTERS: Final = 9
_OTHER: Final = "of other extensions"
# In a DEST of `pseudoris tile`: its tars, what it was made of, and, written last, key and reason of each picture that
# it could not read.
TAR_NAME: Final = re.compile(r"tiles-(\d+)-[0-9a-f]+\.tar")
TILES_NAME: Final = ".tiles.json"
UNTILED_NAME: Final = ".tiles/left_out.json"


@dataclass(slots=True)
class LeftOut:
    """Files and members of tars that a listing passes over. Can be pickled; complete when the listing ends.

    Attributes:
        extensions: How many files by extension, in lower case; "" for names without a plain one. For members of tars
            only images that are not read count: the others are labels.
        num_tables: Parquet tables of a tar's labels.
        num_archived: Objects in an archive class; they are planned.
        untiled: Key and reason of the pictures that `pseudoris tile` could not read, if SOURCE is what it wrote.
    """

    extensions: Counter[str] = field(default_factory=Counter)
    num_tables: int = 0
    num_archived: int = 0
    untiled: list[tuple[str, str]] = field(default_factory=list)

    def clear(self) -> None:
        """Count from zero."""
        self.extensions.clear()
        self.untiled.clear()
        self.num_tables = self.num_archived = 0

    def add(self, other: LeftOut) -> None:
        """Add the counts of another part of the listing."""
        self.extensions.update(other.extensions)
        self.num_tables += other.num_tables
        self.num_archived += other.num_archived

    def count_file(self, path: str) -> None:
        """Count a file that is not listed."""
        suffix = _suffix(path)
        is_usual = suffix.isascii() and suffix[1:].replace(".", "").isalnum() and len(suffix) <= _MAX_LETTERS
        # Only the first suffixes are counted by name, because names such as `photo.000001` have millions of suffixes.
        is_kept = suffix in self.extensions or len(self.extensions) < _MAX_EXTENSIONS
        self.extensions[(suffix if is_kept else _OTHER) if is_usual else ""] += 1

    def count_member(self, name: str) -> None:
        """Count a member of a tar that is not listed, if it is an image."""
        suffix = _suffix(name)
        if suffix in HEIF_EXTENSIONS or suffix in _TO_CONVERT or suffix in _TO_EXTRACT:
            self.extensions[suffix] += 1

    def notices(self) -> Iterator[str]:
        """Yield what the user should know, one sentence or two each; nothing if nothing was left out."""
        if self.extensions:
            found = [f"{count:,} {suffix or 'without an extension'}" for suffix, count in self.extensions.most_common()]
            more = [f"{len(found) - _SHOWN:,} more extensions"] if len(found) > _SHOWN else []
            yield f"not listed: {', '.join([*found[:_SHOWN], *more])}"
        if self.extensions.keys() & set(HEIF_EXTENSIONS):
            yield (
                f"to read HEIC files: {install('heif')} on every node, and --set "
                f"'images.decoder_plugins=[{HEIF_PLUGIN}]'"
            )
        if convertible := sorted(self.extensions.keys() & _TO_CONVERT):
            yield f"{', '.join(convertible)} files cannot be read: convert them to JPEG, PNG, WebP or TIFF"
        for suffix in sorted(self.extensions.keys() & _TO_EXTRACT.keys()):
            yield f"{suffix} files cannot be read: {_TO_EXTRACT[suffix]}"
        if self.extensions[""]:
            yield "to list files of any name: --set 'source.extensions=[\"\"]'; any that is no image is quarantined"
        if self.untiled:
            # Such a list is a stranger's, so its names are quoted.
            some = ", ".join(f"{key!r} ({reason})" for key, reason in self.untiled[:_SHOWN])
            yield f"in no tile ({UNTILED_NAME}): {len(self.untiled):,} that cannot be read, such as {some}"
        if self.num_tables:
            yield (
                f"not listed: {self.num_tables:,} Parquet tables without bytes of images, taken for the labels "
                "of the tars of the same names. To read what they name, not the tars: --set source.format=parquet"
            )
        if self.num_archived:
            yield (
                f"in an archive class (GLACIER or the like): {self.num_archived:,} objects. Restore them first: "
                "those that are not restored are quarantined as archived"
            )


def _suffix(path: str) -> str:
    """Return a name's extension in lower case; of a packed volume, `.nii.gz`, both."""
    suffixes = PurePosixPath(path.lower()).suffixes[-2:]
    return "".join(suffixes) if suffixes == [".nii", ".gz"] else "".join(suffixes[-1:])

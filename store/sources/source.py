"""Opens SOURCE and lists its images: folders, urls, globs, tars, tables. Called by most rooms, for plans and readers.

Two listings of an unchanged SOURCE must be equal, in the order of keys: plans and ids depend on it. A folder that holds
a run is left out, and one of tiles is, unless a glob of SOURCE names its files.
"""

from __future__ import annotations

import builtins
import difflib
import functools
import heapq
import logging
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise, repeat
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pseudoris.files.key_order import path_key
from pseudoris.files.location import LOCAL_PROTOCOLS, local_path, storage_at
from pseudoris.files.storage import Mark, StoredFile
from pseudoris.primitives.errors import ConfigError, ImageError, PseudorisError, RefusedError
from pseudoris.primitives.untrusted import without_secrets
from pseudoris.primitives.uris import NO_FIELDS, refuse_secrets, secret_in
from pseudoris.schemas.config import SourceConfig, StorageConfig
from pseudoris.schemas.run_records import HEADER_NAME, is_header
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.sources.containers import RowGroup, count_rows, list_members, rows_of
from pseudoris.store.sources.items import TAR_NAME, TILES_NAME, UNTILED_NAME, LeftOut, SourceItem
from pseudoris.store.sources.patterns import ALL_FILES, GLOB, MAGIC, GlobPattern, expand_braces, split_root
from pseudoris.store.sources.root import REMOTE_SCHEMES, SourceRoot, root_at

logger = logging.getLogger(__name__)

# How a file is listed: as one image, as a tar of them, or as a table of them. A table beside a tar of the same name is
# mostly its labels, as img2dataset writes them: it is listed only if it holds the bytes of images.
Format = Literal["files", "webdataset", "parquet", "beside_tar"]

# A run writes these folders below OUT. A SOURCE in one of them is refused, because it would list the run's own tables.
_RUN_FOLDERS: Final = frozenset({*SCHEMAS, "_plan", "_receipts", "_manifest"})
_UNTILED: Final = TypeAdapter(builtins.list[tuple[str, Annotated[str, Field(pattern=r"^[a-z_]+$")]]])
# Holds the runs whose skipping was logged, so that several listings of SOURCE log each run once.
_TOLD: Final[set[str]] = set()
# A recorded SOURCE may have these schemes. A row's uri may not be on the Hub, because it would name no commit.
_RECORDED_SCHEMES: Final = REMOTE_SCHEMES | {"hf"}
# A wrong path is compared with at most this many names, because its folder may hold millions of images.
_MAX_COMPARED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Source:
    """A SOURCE that exists; `list` yields its images.

    Attributes:
        name: SOURCE; a local one as an absolute path, so that it is the same from every folder and process, one on the
            Hub with its commit.
        named: Paths below the root that SOURCE names.
        patterns: Globs below the root. Without a name and a glob everything below the root belongs to SOURCE.
        exclude: Full path or uri of a folder that is never listed: the run's output.
        left_out: What the last listing of this object passed over.
    """

    name: str
    root: SourceRoot
    config: SourceConfig
    named: tuple[str, ...] = ()
    patterns: tuple[GlobPattern, ...] = ()
    exclude: str | None = None
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)

    def list(self) -> Iterator[SourceItem]:
        """Yield every image once for each time that SOURCE names it, while the storage is read.

        Files are in the order of their keys, a tar's members in the tar's order, a table's rows by number. Names with a
        leading dot are only listed if SOURCE spells them out. ConfigError if nothing is listed, a named file is
        missing, or a tar or table cannot be listed.
        """
        is_empty = True
        for file, format_ in self.files():
            for item in self.items(file, format_):
                is_empty = False
                yield item
        if is_empty:
            raise self.lists_nothing()

    def lists_nothing(self) -> ConfigError:
        """Return the error of a listing without an image."""
        left_out = "".join(f"\n{text}" for text in self.left_out.notices())
        return ConfigError(
            f"SOURCE {without_secrets(self.name)!r} lists no image. Listed are files "
            f"{' '.join(self.config.extensions)} (source.extensions), .tar and .parquet, except hidden ones. A glob "
            f"must match files, not folders: folder/**/*.jpg. Check the path, or set the format with --set "
            f"source.format=…{left_out}"
        )

    def check_not_empty(self) -> None:
        """Raise a ConfigError if no file may hold images, or a named one is missing; tars and tables are not opened."""
        if next(self.files(), None) is None:
            raise self.lists_nothing()

    def files(self) -> Iterator[tuple[StoredFile, Format]]:
        """Yield the files that hold images, in the order of their keys, and how each is listed.

        A file that SOURCE names twice is yielded twice in a row. What is passed over is counted in `left_out`.
        """
        self.left_out.clear()
        patterns = self.patterns if self.patterns or self.named else (ALL_FILES,)
        sources = [((file, True) for file in self._named_files()), *map(self._globbed_files, patterns)]
        selected = heapq.merge(*sources, key=lambda pair: path_key(pair[0].path))
        for (file, is_named), (following, _) in pairwise(chain(selected, [(StoredFile("", None), False)])):
            self.left_out.num_archived += file.is_archived
            format_ = _format_of(file.path, self.config, is_named=is_named)
            tar = TAR_NAME.fullmatch(file.path)
            if tar is not None and int(tar[1]) == 0 and format_ == "webdataset":
                self._look_at_tiles()
            if format_ is not None:
                is_beside = format_ == "parquet" and not is_named and self._has_tar(file, following)
                yield file, "beside_tar" if is_beside else format_
            else:
                self.left_out.count_file(file.path)
            if format_ is None and file.size_bytes is None:
                logger.warning(
                    "Left out %s: it cannot be looked at. If it is a link to a folder, repair it and run again.",
                    self.root.describe(file.path),
                )

    def _look_at_tiles(self) -> None:
        """Note what `pseudoris tile` could not read; refuse a place that it has not finished."""
        with suppress(ValidationError):
            try:
                self.left_out.untiled += _UNTILED.validate_json(self.root.read(UNTILED_NAME))
            except FileNotFoundError:
                with suppress(FileNotFoundError):
                    self.root.read(TILES_NAME)
                    raise ConfigError(
                        f"{without_secrets(self.name)!r} lacks tiles: `pseudoris tile` has not finished there. Give "
                        "its command again, then this one"
                    ) from None

    def items(self, file: StoredFile, format_: Format) -> Iterator[SourceItem]:
        """Yield the images of one of the files; ConfigError if it is a tar or a table that cannot be listed."""
        if format_ == "webdataset":
            yield from list_members(self.root, file, self.config, self.left_out)
        elif format_ == "files":
            yield SourceItem(path_key(file.path), file.size_bytes, etag=file.etag, mtime_ns=file.mtime_ns)
        else:
            yield from rows_of(file, self.row_groups(file, format_))

    def row_groups(self, file: StoredFile, format_: Format) -> builtins.list[RowGroup]:
        """Return the row groups of a table; none if it holds the labels of a tar. Raises like `items`."""
        return count_rows(self.root, file, self.config, self.left_out if format_ == "beside_tar" else None)

    def _has_tar(self, table: StoredFile, following: StoredFile) -> bool:
        stem = table.path.rpartition(".")[0]
        if self.config.format != "auto" or not following.path.startswith(f"{stem}."):
            return False
        tar = f"{stem}.tar"
        if following.path == tar:
            return True
        patterns = self.patterns or (ALL_FILES,)
        return any(each.matches(tuple(tar.split("/"))) for each in patterns) and self.root.kind(tar) == "file"

    def _named_files(self) -> Iterator[StoredFile]:
        for path in sorted(self.named, key=path_key):
            try:
                yield self.root.stat(path)
            except FileNotFoundError:
                raise ConfigError(
                    f"SOURCE {without_secrets(self.name)!r} names {self.root.describe(path)}, which does not "
                    "exist: check the path"
                ) from None
            except (ImageError, RefusedError):
                # The file's status cannot be read. It is planned, as other files may be good, and quarantined later.
                yield StoredFile(path, None)

    def _globbed_files(self, pattern: GlobPattern) -> Iterator[tuple[StoredFile, bool]]:
        names = (HEADER_NAME, *([TILES_NAME] if pattern == ALL_FILES else []))
        walk = self.root.storage.walk(
            pattern.may_descend, self.exclude, Mark(names, lambda folder: self._is_made(folder, names))
        )
        return zip(filter(lambda file: pattern.matches(tuple(file.path.split("/"))), walk), repeat(False))

    def _is_made(self, folder: str, names: tuple[str, ...]) -> bool:
        """Return whether a folder below the root holds a run or tiles, no input; the first time, tell the user."""
        held = "a run of pseudoris" if _holds_run(self.root, folder) else ""
        with suppress(PseudorisError):
            if TILES_NAME in names and self.root.kind(f"{folder}/{TILES_NAME}") == "file":
                held = "tiles, which are a SOURCE of their own"
        if held and (uri := self.root.describe(folder)) not in _TOLD:
            _TOLD.add(uri)
            logger.warning("%s holds %s. It is skipped; its images are not listed.", uri, held)
        return bool(held)


def open_source(
    source: str,
    config: SourceConfig,
    *,
    exclude: str | None = None,
    limits: StorageConfig | None = None,
    recorded: str | None = None,
) -> Source:
    """Return SOURCE, ready to be listed; braces are expanded, nothing is listed yet.

    Keys are relative to the root: the folder itself, the folder of a single file, or the folder before the part of a
    path that is a pattern. What exists is taken literally, including special characters: the whole path, a leading
    folder, and each word that braces expand to. A dataset on the Hub is pinned to its present commit.

    Args:
        source: A folder, file, fsspec url, glob, or any of them with braces (`train-{000..123}.tar`).
        config: How it is read.
        exclude: OUT, which may be below SOURCE.
        limits: Time-outs and patience of an S3 store.
        recorded: SOURCE of the run in OUT, which may have any query: it is written already.

    Raises:
        ConfigError: It does not exist, contains a secret, is a run, or is inside OUT.
    """
    allowed = [*config.allowed_query, *filter(None, [recorded])]
    source = absolute_source(refuse_secrets(source, allowed or NO_FIELDS))
    if source.startswith("hf://"):
        source = storage_at(source).pinned()
    root, rest, is_pattern = _split(source, config, limits)
    shown = without_secrets(source)
    if not rest and _holds_run(root, ""):
        raise ConfigError(
            f"SOURCE {shown!r} is the folder of a run, not a folder of images. To continue that run, name its own "
            f"SOURCE first: pseudoris annotate SOURCE {shlex.quote(shown)}. To look at it: pseudoris status "
            f"{shlex.quote(shown)}"
        )
    words = {rest: False} if rest else {}
    if is_pattern:
        words = {word: bool(GLOB.search(word)) and root.kind(word) is None for word in expand_braces(rest)}
    named = tuple(word for word, matches in words.items() if not matches)
    patterns = tuple(GlobPattern.parse(word) for word, matches in words.items() if matches)
    output = None if exclude is None else root_at(exclude, config, limits).storage
    if output is None or type(output) is not type(root.storage):
        return Source(source, root, config, named, patterns)
    inner, outer = root.storage.uri().rstrip("/"), output.uri().rstrip("/")
    if inner == outer or (inner.startswith(f"{outer}/") and inner[len(outer) + 1 :].split("/")[0] in _RUN_FOLDERS):
        raise ConfigError(f"SOURCE {shown!r} is a folder that the output is written to: name another for it")
    return Source(source, root, config, named, patterns, exclude=output.uri())


def _holds_run(root: SourceRoot, folder: str) -> bool:
    path = f"{folder}/{HEADER_NAME}" if folder else HEADER_NAME
    try:
        return root.kind(path) == "file" and is_header(root.read(path))
    except FileNotFoundError:
        return False
    except PseudorisError as error:
        where = root.describe(folder)
        logger.warning("Cannot tell whether %s holds a run, so its images are listed: %s", where, error)
        return False


def open_root(source: str, config: SourceConfig, limits: StorageConfig | None = None) -> SourceRoot:
    """Return the root that the keys of SOURCE are relative to; braces are not expanded. Raises as `open_source`."""
    if secret := secret_in(source, None):
        raise ConfigError(secret)
    return _split(absolute_source(source), config, limits)[0]


def open_recorded_root(source: str, config: SourceConfig, limits: StorageConfig | None = None) -> SourceRoot:
    """Return `open_root` for the SOURCE in a run's header, which may be a stranger's: on a disk or a known store only.

    Raises as `open_root`, ConfigError for another protocol, or several, and TransientError if the store does not answer
    within ten seconds.
    """
    protocol, separator, rest = source.partition("://")
    if separator and (protocol not in {*LOCAL_PROTOCOLS, *_RECORDED_SCHEMES} or "::" in source or "://" in rest):
        raise ConfigError(
            f"the run's header names SOURCE {without_secrets(source)!r}. A header may name a local path, or a url of "
            f"{', '.join(sorted(_RECORDED_SCHEMES))}; name the place yourself where the command takes it (--source)"
        )
    _check_answers(source, config, limits or StorageConfig())
    return open_root(source, config, limits)


@functools.cache
def _check_answers(source: str, config: SourceConfig, limits: StorageConfig) -> None:
    # Checked once in a process: a store that is down is reported within ten seconds. Later reads wait as long as a run
    # does.
    open_root(source, config, limits.hasty())


def absolute_source(source: str) -> str:
    """Return SOURCE in a form that is the same from every folder: a local path becomes absolute, links stay."""
    path = local_path(source)
    return source if path is None else str(path)


def _split(source: str, config: SourceConfig, limits: StorageConfig | None) -> tuple[SourceRoot, str, bool]:
    """Return the root and the rest: nothing for a folder, else a file or a pattern; and whether it is a pattern."""
    whole = root_at(source, config, limits)
    kind = whole.kind("")
    if kind == "folder":
        return whole, "", False
    protocol, separator, path = source.rpartition("://")
    if kind == "file":
        folder, slash, name = path.rpartition("/")
        return root_at(f"{protocol}{separator}{folder or slash}", config, limits), name, False
    folder, rest = split_root(path)
    root = root_at(f"{protocol}{separator}{folder}", config, limits)
    while "/" in rest and root.kind(rest.partition("/")[0]) == "folder":
        name, _, rest = rest.partition("/")
        folder = f"{folder.rstrip('/')}/{name}"
        root = root_at(f"{protocol}{separator}{folder}", config, limits)
    missing, rest = split_root(rest) if MAGIC.search(rest) else (rest, "")
    if missing or (root.store == "disk" and root.kind("") != "folder"):
        raise _missing(source, root.storage.uri(missing) if rest else source)
    return root, rest, True


def _missing(source: str, name: str) -> ConfigError:
    local, source = local_path(name), without_secrets(source)
    begins = f"To match all names that begin with it, write {shlex.quote(f'{without_secrets(name)}*')}."
    if local is None:
        return ConfigError(f"SOURCE {source!r} does not exist. Check the url and the credentials. {begins}")
    # SOURCE may be a url without its scheme. Its first slash is left out, or `without_secrets` would keep the query.
    source = f"/{without_secrets(source[1:])}"
    parent = next(folder for folder in local.parents if folder.is_dir())
    wanted = local.relative_to(parent).parts[0]
    names = [path.name for path in islice(parent.iterdir(), _MAX_COMPARED)] if os.access(parent, os.R_OK) else []
    near, longer = difflib.get_close_matches(wanted, names), (each for each in names if each.startswith(wanted))
    if (meant := _first_no_run(parent, near)) is not None:
        hint = f"Did you mean {parent / meant}?"
    elif _first_no_run(parent, longer) is not None:
        hint = begins
    else:
        hint = f"The nearest folder that exists is {parent}."
    return ConfigError(f"SOURCE {source!r} does not exist.\n{hint}")


def _first_no_run(parent: Path, names: Iterable[str]) -> str | None:
    """Return the first name that is not the folder of a run: OUT is mostly called like its SOURCE."""
    return next((name for name in names if not os.access(parent / name / HEADER_NAME, os.F_OK)), None)


def _format_of(path: str, config: SourceConfig, *, is_named: bool) -> Format | None:
    endings: dict[Format, tuple[str, ...]] = {
        "webdataset": (".tar",),
        "parquet": (".parquet",),
        "files": config.extensions,
    }
    fits = [format_ for format_ in endings if path.lower().endswith(endings[format_])]
    if config.format != "auto":
        return config.format if is_named or config.format in fits else None
    return fits[0] if fits else "files" if is_named else None

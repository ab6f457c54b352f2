"""From the word SOURCE to a listing: which root, which files, and how each file is listed."""

from __future__ import annotations

import heapq
import logging
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from schemas.config import SourceConfig
from schemas.errors import ConfigError
from schemas.placement import StorageConfig
from schemas.tables import SCHEMAS
from schemas.uris import refuse_secrets
from store.location import S3_PROTOCOLS
from store.sources.items import SourceItem, Storage, StoredFile
from store.sources.keys import path_key
from store.sources.local_storage import LocalStorage
from store.sources.object_storage import ObjectStorage
from store.sources.parquet import list_rows
from store.sources.patterns import ALL_FILES, GlobPattern, expand_braces, has_magic, is_glob, split_root
from store.sources.s3_storage import S3Storage
from store.sources.tars import list_members

logger = logging.getLogger(__name__)

# How a file is listed: as one image, as a tar of them, or as a table of them.
Format = Literal["files", "webdataset", "parquet"]

_LOCAL_PROTOCOLS: Final = ("file", "local")
# Where a run writes below OUT: a SOURCE in there would list the run's own tables.
_RUN_FOLDERS: Final = frozenset({*SCHEMAS, "_plan", "_receipts", "_manifest"})


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a root is SOURCE: files named one by one, and patterns; everything where both are empty.

    Attributes:
        files: Paths below the root.
        patterns: Globs below the root.
    """

    files: tuple[str, ...] = ()
    patterns: tuple[GlobPattern, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A SOURCE that exists; `list` says what is in it.

    Attributes:
        name: SOURCE, a local one as an absolute path: the same in another folder and another process.
        storage: Its root; keys are relative to it.
        selection: What of the root belongs to it.
        config: Formats, extensions, columns.
        exclude: Full path or uri of a folder that is never listed: the run's output.
    """

    name: str
    storage: Storage
    selection: Selection
    config: SourceConfig
    exclude: str | None = None

    def list(self) -> Iterator[SourceItem]:
        """Yield every image once for each time that SOURCE names it, as it is read from the storage.

        Files come in the order of their keys, a tar's members in the tar's order, a table's rows by number:
        two listings of an unchanged SOURCE are equal. Hidden names (a leading dot) are not listed, unless
        SOURCE spells them out.

        Raises:
            ConfigError: Nothing is listed, a named file is missing, or a tar or table cannot be listed.
            TransientError: The storage failed.
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
        return ConfigError(
            f"SOURCE {self.name!r} lists no image: it takes files of {' '.join(self.config.extensions)} "
            "(source.extensions), .tar and .parquet, hidden names aside. A glob names files, not folders: "
            "folder/**/*.jpg. Check the path, or name the format with --set source.format=…"
        )

    def check_not_empty(self) -> None:
        """Look for one file that may hold images, and no further; tars and tables are not looked into.

        Raises:
            ConfigError: There is none, or a named file is missing.
            TransientError: The storage failed.
        """
        if next(self.files(), None) is None:
            raise self.lists_nothing()

    def files(self) -> Iterator[tuple[StoredFile, Format]]:
        """Yield the files that hold images, in the order of their keys, and how each is listed.

        A file that SOURCE names twice comes twice, one after the other.
        """
        for file, is_named in self._files():
            format_ = _format_of(file.path, self.config, is_named=is_named)
            if format_ is not None:
                yield file, format_

    def items(self, file: StoredFile, format_: Format) -> Iterator[SourceItem]:
        """Yield the images of one of the files.

        Raises:
            ConfigError: It is a tar or a table that cannot be listed.
            TransientError: The storage failed, or it changed since it was listed.
        """
        if format_ == "webdataset":
            yield from list_members(self.storage, file, self.config)
        elif format_ == "parquet":
            yield from list_rows(self.storage, file, self.config)
        else:
            yield SourceItem(path_key(file.path), file.size_bytes, etag=file.etag, mtime_ns=file.mtime_ns)

    def _files(self) -> Iterator[tuple[StoredFile, bool]]:
        """Yield the selected files in the order of their keys, and whether each was named as itself."""
        patterns = self.selection.patterns
        if not patterns and not self.selection.files:
            patterns = (ALL_FILES,)
        named = ((file, True) for file in self._named_files())
        globbed = [self._globbed_files(pattern) for pattern in patterns]
        yield from heapq.merge(named, *globbed, key=lambda pair: path_key(pair[0].path))

    def _named_files(self) -> Iterator[StoredFile]:
        for path in sorted(self.selection.files, key=path_key):
            try:
                yield self.storage.stat(path)
            except FileNotFoundError:
                raise ConfigError(f"SOURCE {self.name!r} names {self.storage.describe(path)}: no such file") from None

    def _globbed_files(self, pattern: GlobPattern) -> Iterator[tuple[StoredFile, bool]]:
        for file in self.storage.walk(pattern.may_descend, self.exclude):
            if pattern.matches(tuple(file.path.split("/"))):
                yield file, False


def open_source(
    source: str, config: SourceConfig, *, exclude: str | None = None, limits: StorageConfig | None = None
) -> Source:
    """Return SOURCE, found and ready to be listed; braces are spelled out, nothing is listed yet.

    The root, which keys are relative to, is the folder itself, the folder of a single file, or the
    folder before the first special character of a glob. A path that exists is taken as it is, special
    characters and all.

    Args:
        source: A folder, file, fsspec url, glob, or any of them with braces (`train-{000..123}.tar`).
        config: How it is read.
        exclude: OUT, where it may lie below SOURCE.
        limits: Time-outs and patience of an S3 store.

    Raises:
        ConfigError: It does not exist, holds a secret, or lies in OUT.
        TransientError: The storage failed.
    """
    source = absolute_source(refuse_secrets(source))
    root, rest = _split(source, config, limits)
    if has_magic(rest):
        if root.kind("") != "folder":
            raise ConfigError(f"SOURCE {source!r}: there is no folder {root.describe()}; check the path")
        words = expand_braces(rest)
        selection = Selection(
            files=tuple(word for word in words if not is_glob(word)),
            patterns=tuple(GlobPattern.parse(word) for word in words if is_glob(word)),
        )
    else:
        selection = Selection(files=(rest,) if rest else ())
    output = None if exclude is None else storage_at(exclude, config, limits)
    if output is None or type(output) is not type(root):
        return Source(source, root, selection, config)
    _refuse_output(root, source, output)
    return Source(source, root, selection, config, exclude=output.describe())


def open_root(source: str, config: SourceConfig, limits: StorageConfig | None = None) -> Storage:
    """Return the storage that the keys of SOURCE are relative to; braces are not spelled out.

    Raises:
        ConfigError: SOURCE does not exist or holds a secret.
    """
    return _split(absolute_source(refuse_secrets(source)), config, limits)[0]


def absolute_source(source: str) -> str:
    """Return SOURCE as it names the same place from every folder; of a pattern only its beginning changes.

    Links are not followed: a link that points elsewhere tomorrow is the same SOURCE.

    Raises:
        ConfigError: It is a relative pattern and the current folder's name has special characters.
    """
    protocol, _, path = source.rpartition("://")
    if protocol and protocol not in _LOCAL_PROTOCOLS:
        return source
    folder, rest = split_root(path) if has_magic(path) else (path, "")
    root = str(Path(folder).expanduser().absolute())
    if rest and has_magic(root) and LocalStorage(Path(root) / rest).kind("") is None:
        raise ConfigError(
            f"SOURCE {source!r} is a pattern below {root}, whose own name has special characters: "
            "start in another folder, or give the folder itself"
        )
    return f"{root.rstrip('/')}/{rest}" if rest else root


def _split(source: str, config: SourceConfig, limits: StorageConfig | None) -> tuple[Storage, str]:
    """Return the root and what of it is named: nothing for a folder, else a file or a pattern."""
    whole = storage_at(source, config, limits)
    kind = whole.kind("")
    if kind == "folder":
        return whole, ""
    protocol, separator, path = source.rpartition("://")
    if kind is None and not has_magic(path):
        suspects = "the url and the credentials" if separator else "the path"
        raise ConfigError(
            f"SOURCE {source!r} does not exist: check {suspects}. For all names that begin alike write "
            f"{shlex.quote(source + '*')}"
        )
    folder, rest = split_root(path) if kind is None else _split_file(path)
    return storage_at(f"{protocol}{separator}{folder}", config, limits), rest


def _split_file(path: str) -> tuple[str, str]:
    folder, slash, name = path.rpartition("/")
    return folder or slash, name


def storage_at(location: str, config: SourceConfig, limits: StorageConfig | None = None) -> Storage:
    """Return the storage whose root is a local path or an fsspec url; it need not exist.

    Raises:
        ConfigError: The protocol is unknown, or its package is missing.
    """
    protocol, _, path = location.rpartition("://")
    if not protocol or protocol in _LOCAL_PROTOCOLS:
        return LocalStorage(Path(path).expanduser().resolve())
    if protocol in S3_PROTOCOLS:
        return S3Storage.at(location, config.endpoint_url, limits or StorageConfig())
    return ObjectStorage.at(location)


def _refuse_output(root: Storage, source: str, output: Storage) -> None:
    inside = _below(root.describe(), output.describe())
    if inside == "" or (inside is not None and inside.partition("/")[0] in _RUN_FOLDERS):
        raise ConfigError(f"SOURCE {source!r} is where OUT writes its tables: name another folder for OUT")


def _below(inner: str, outer: str) -> str | None:
    """Return where `inner` lies below `outer`, "" where they are one, None where it lies elsewhere."""
    inner, outer = inner.rstrip("/"), outer.rstrip("/")
    if inner == outer:
        return ""
    return inner[len(outer) + 1 :] if inner.startswith(f"{outer}/") else None


def _format_of(path: str, config: SourceConfig, *, is_named: bool) -> Format | None:
    """Return how a file is listed; None where it is not."""
    name = path.lower()
    if config.format != "auto":
        wanted = {"files": config.extensions, "webdataset": (".tar",), "parquet": (".parquet",)}[config.format]
        return config.format if is_named or name.endswith(wanted) else None
    if name.endswith(".tar"):
        return "webdataset"
    if name.endswith(".parquet"):
        return "parquet"
    return "files" if is_named or name.endswith(config.extensions) else None

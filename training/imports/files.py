"""The files of an annotation, found on a disk or in a bucket, and read whole."""

from __future__ import annotations

import re
from typing import Final

from schemas.config import RunConfig
from schemas.errors import ConfigError
from schemas.uris import refuse_secrets
from store.sources.faults import denial_is_final, transient_faults
from store.sources.items import Storage
from store.sources.opening import storage_at
from training.imports.annotation import Annotation
from training.imports.coco import read_coco
from training.imports.refer import INSTANCES_NAME, read_refer
from training.imports.request import ImportRequest

_PICKLE: Final = ".p"
_REFS_NAME: Final = re.compile(r"^refs\((.+)\)\.p$")


def read_annotation(request: ImportRequest) -> Annotation:
    """Return what the annotation's files hold.

    They are read into memory whole, and take about eight times their size there (measured: docs/imports.md).

    Raises:
        ConfigError: A file is missing, damaged, hostile or of another format.
        TransientError: The storage failed.
    """
    if request.format == "coco":
        data, name = _read_named(request.annotation, request.config)
        captions, captions_name = _read_named(request.captions, request.config) if request.captions else (None, "")
        return read_coco(data, name, captions, captions_name)
    folder, name = _locate(request.annotation, request.config)
    if name and request.split_by is not None:
        raise ConfigError(
            f"ANNOTATION {request.annotation!r} is a file: --split-by chooses one in a folder, leave it out"
        )
    if name and not name.lower().endswith(_PICKLE):
        raise ConfigError(
            f"ANNOTATION {request.annotation!r} is neither the folder of a REFER dataset, nor its refs(…){_PICKLE}, "
            "nor COCO's .json: name one of these, or say --format coco"
        )
    refs_name = name or _refs_in(folder, request.split_by)
    instances = _read(folder, INSTANCES_NAME)
    return read_refer(_read(folder, refs_name), instances, refs_name=refs_name, splits=request.splits)


def _read_named(given: str, config: RunConfig) -> tuple[bytes, str]:
    folder, name = _locate(given, config)
    if not name:
        raise ConfigError(f"{folder.describe()} is a folder: name the COCO JSON file in it")
    return _read(folder, name), name


def _locate(given: str, config: RunConfig) -> tuple[Storage, str]:
    """Return the folder of an annotation's file, and the file in there; "" where a folder is given itself."""
    given = refuse_secrets(given).rstrip("/")
    whole = storage_at(given, config.source, config.placement.storage)
    kind = whole.kind("")
    if kind is None:
        raise ConfigError(f"ANNOTATION {given!r} does not exist: check the path, or the url and the credentials")
    if kind == "folder":
        return whole, ""
    folder, _, name = given.rpartition("/")
    return storage_at(folder or ("/" if given.startswith("/") else "."), config.source, config.placement.storage), name


def _refs_in(folder: Storage, split_by: str | None) -> str:
    found = [file.path for file in folder.walk(lambda _: False) if _REFS_NAME.match(file.path)]
    wanted = found if split_by is None else [name for name in found if name == f"refs({split_by}).p"]
    if len(wanted) == 1:
        return wanted[0]
    there = ", ".join(found) or "none"
    raise ConfigError(
        f"{folder.describe()} has these files of references: {there}. Choose one with --split-by, the name in its "
        "brackets; for COCO JSON name the file itself"
    )


def _read(folder: Storage, name: str) -> bytes:
    uri = folder.describe(name)
    try:
        with transient_faults("read", uri, faults=folder.faults), denial_is_final(uri), folder.open(name) as file:
            return file.read()
    except FileNotFoundError:
        raise ConfigError(
            f"{uri} does not exist; a REFER dataset has refs(<splitBy>).p beside {INSTANCES_NAME}"
        ) from None

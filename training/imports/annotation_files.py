"""The files of an annotation, found on a disk or in a bucket, and read whole."""

from __future__ import annotations

import re
from typing import Final

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.uris import refuse_secrets
from pseudoris.store.sources.root import SourceRoot, root_at
from pseudoris.training.imports.coco import read_coco
from pseudoris.training.imports.human_annotation import Annotation
from pseudoris.training.imports.import_plan import ImportRequest
from pseudoris.training.imports.refer import INSTANCES_NAME, read_refer

_PICKLE: Final = ".p"
_REFS_NAME: Final = re.compile(r"^refs\((.+)\)\.p$")


def read_annotation(request: ImportRequest) -> Annotation:
    """Return the content of the annotation's files.

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
            f"ANNOTATION {request.annotation!r} is a file, and --split-by chooses a file of a folder. Leave "
            "--split-by out."
        )
    if name and not name.lower().endswith(_PICKLE):
        raise ConfigError(
            f"ANNOTATION {request.annotation!r} is neither the folder of a REFER dataset, nor its refs(…){_PICKLE}, "
            "nor a COCO .json file. Name one of these, or give --format coco."
        )
    refs_name = name or _refs_in(folder, request.split_by)
    instances = _read(folder, INSTANCES_NAME)
    return read_refer(_read(folder, refs_name), instances, refs_name=refs_name, splits=request.splits)


def _read_named(given: str, config: RunConfig) -> tuple[bytes, str]:
    folder, name = _locate(given, config)
    if not name:
        raise ConfigError(f"{folder.describe()} is a folder. Name the COCO JSON file in it.")
    return _read(folder, name), name


def _locate(given: str, config: RunConfig) -> tuple[SourceRoot, str]:
    """Return the folder of an annotation's file, and the file in there; "" where a folder is given itself."""
    given = refuse_secrets(given).rstrip("/")
    whole = root_at(given, config.source, config.placement.storage)
    kind = whole.kind("")
    if kind is None:
        raise ConfigError(f"ANNOTATION {given!r} does not exist. Check the path, or the url and the credentials.")
    if kind == "folder":
        return whole, ""
    folder, _, name = given.rpartition("/")
    return root_at(folder or ("/" if given.startswith("/") else "."), config.source, config.placement.storage), name


def _refs_in(folder: SourceRoot, split_by: str | None) -> str:
    found = [file.path for file in folder.walk(lambda _: False) if _REFS_NAME.match(file.path)]
    wanted = found if split_by is None else [name for name in found if name == f"refs({split_by}).p"]
    if len(wanted) == 1:
        return wanted[0]
    there = ", ".join(found) or "none"
    raise ConfigError(
        f"{folder.describe()} has these files of references: {there}. Choose one: give the name in its brackets as "
        "--split-by. For COCO JSON, name the file itself."
    )


def _read(folder: SourceRoot, name: str) -> bytes:
    uri = folder.describe(name)
    try:
        return folder.read(name)
    except FileNotFoundError:
        raise ConfigError(
            f"{uri} does not exist. A REFER dataset has refs(<splitBy>).p beside {INSTANCES_NAME}."
        ) from None

"""Imports of a human's annotation in the test's own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pseudoris.files.location import RunLocation
from pseudoris.interchange.imports import ImportRequest, ImportSummary, import_annotation
from pseudoris.interchange.imports.annotation_files import read_annotation
from pseudoris.interchange.imports.human_annotation import Annotation
from pseudoris.schemas.config_layers import load_config


def import_small(
    annotation: str | Path,
    images: str | Path,
    location: RunLocation,
    *words: str,
    on_progress: Any = None,
    **values: Any,
) -> ImportSummary:
    """Import, two images a shard; `words` are `--set` words, `values` fields of the request."""
    config = load_config("tiny", None, ["shards.max_images=2", *words])
    request = ImportRequest(str(annotation), str(images), config, **{"format": "refer", **values})
    return import_annotation(
        request, location, on_progress=on_progress or (lambda done, total: None), on_wait=lambda text: None
    )


def read_files(annotation: str | Path, **values: Any) -> Annotation:
    return read_annotation(
        ImportRequest(str(annotation), "images", load_config("tiny"), **{"format": "refer", **values})
    )

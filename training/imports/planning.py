"""The frozen plan of an import: the annotated images as they stand in their folder, in the order of their keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schemas.errors import ConfigError
from schemas.ids import image_id
from store.location import RunLocation
from store.sources import Source, SourceItem, open_source
from store.sources.faults import transient_faults
from store.sources.items import Storage
from store.sources.keys import path_key
from store.threads import map_in_threads
from training.imports.annotation import Annotation, HumanImage, relative_path
from training.imports.request import ImportRequest
from training.runs.planning import PlannedRun, plan_or_continue


@dataclass(frozen=True, slots=True)
class PlannedImport:
    """A planned run, and what each of its images is annotated with, by image id."""

    run: PlannedRun
    humans: Mapping[str, HumanImage]


def open_images(request: ImportRequest, out: str) -> Source:
    """Return the folder of images.

    Args:
        request: Names it.
        out: Full path or uri of the run, which must not lie around it.

    Raises:
        ConfigError: It does not exist, or is no folder.
    """
    source = open_source(request.images, request.config.source, exclude=out, limits=request.config.placement.storage)
    if source.selection.files or source.selection.patterns:
        raise ConfigError(
            f"IMAGES {request.images!r} is no folder: name the folder that file names are relative to; images in tars "
            "or tables cannot be imported"
        )
    return source


def plan_import(request: ImportRequest, annotation: Annotation, source: Source, location: RunLocation) -> PlannedImport:
    """Return the plan that stands in `location`, made where there is none.

    An image that is not there, where others are, is planned all the same, and quarantined when it is read.

    Raises:
        ConfigError: There is nothing to import, no image is there, or the run there has another annotation, origin or
            folder of images.
        TransientError: Storage failed.
    """
    humans = _by_key(annotation, request.prefix)
    if not humans:
        raise ConfigError(f"ANNOTATION {request.annotation!r} lists no image: there is nothing to import")
    run = plan_or_continue(
        location,
        lambda: _listed(request, source, humans),
        origin="import",
        source=source.name,
        identity=request.identity(annotation.digests),
        config=request.config,
    )
    return PlannedImport(run, {image_id(key): human for key, human in humans.items()})


def _listed(request: ImportRequest, source: Source, humans: Mapping[str, HumanImage]) -> Iterator[SourceItem]:
    prefix = _prefix(request.prefix)
    paths = {key: f"{prefix}{human.path}" for key, human in humans.items()}
    return _some_found(_items(source.storage, paths), request.images, paths)


def _some_found(items: Iterator[SourceItem], images: str, paths: Mapping[str, str]) -> Iterator[SourceItem]:
    """Yield the items; where no file was found behind any, the folder is another one than the annotation speaks of."""
    is_found = False
    for item in items:
        is_found = is_found or item.size_bytes is not None
        yield item
    if not is_found:
        raise ConfigError(
            f"none of the {len(paths):,} files of ANNOTATION is below IMAGES {images!r}; the first looked for: "
            f"{next(iter(paths.values()))}; see --prefix"
        )


def _by_key(annotation: Annotation, prefix: str) -> dict[str, HumanImage]:
    below = _prefix(prefix)
    keyed = {path_key(f"{below}{human.path}"): human for human in annotation.images}
    return dict(sorted(keyed.items()))


def _prefix(prefix: str) -> str:
    return f"{relative_path(prefix, where='--prefix')}/" if prefix else ""


def _items(storage: Storage, paths: Mapping[str, str]) -> Iterator[SourceItem]:
    """Yield the images as they stand now, in the order of `paths`, which are by key."""
    # In a bucket a look is a request, nearly all of it waiting.
    yield from map_in_threads(lambda pair: _look(storage, *pair), paths.items(), storage.max_readers)


def _look(storage: Storage, key: str, path: str) -> SourceItem:
    with transient_faults("look at", storage.describe(path), faults=storage.faults):
        try:
            found = storage.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return SourceItem(key)
    return SourceItem(key, found.size_bytes, etag=found.etag, mtime_ns=found.mtime_ns)

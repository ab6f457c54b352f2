"""The frozen plan of an import: the annotated images as they stand in their folder, in the order of their keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schemas.errors import ConfigError
from schemas.ids import image_id
from schemas.run import Identity, RunHeader
from store.header import check_identity, check_origin, check_source, read_header
from store.location import RunLocation
from store.planning import plan_run
from store.sources import Source, SourceItem, open_source
from store.sources.faults import transient_faults
from store.sources.items import Storage
from store.sources.keys import path_key
from store.threads import map_in_threads
from training.imports.annotation import Annotation, HumanImage, relative_path
from training.imports.request import ImportRequest


@dataclass(frozen=True, slots=True)
class PlannedImport:
    """A run's header, what each of its images is annotated with, and which differences were accepted.

    Attributes:
        header: That stands.
        humans: By image id.
        mixed: Lines of `Identity.mixed_differences`, under `placement.allow_mixed`.
    """

    header: RunHeader
    humans: Mapping[str, HumanImage]
    mixed: tuple[str, ...]


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
    identity = request.identity(annotation.digests)
    header = read_header(location)
    if header is None:
        header = _freeze(request, source, location, identity, humans)
    check_origin(location, header, "import")
    mixed = check_identity(header, identity, allow_mixed=request.config.placement.allow_mixed)
    check_source(header, source.name)
    return PlannedImport(header, {image_id(key): human for key, human in humans.items()}, tuple(mixed))


def _freeze(
    request: ImportRequest, source: Source, location: RunLocation, identity: Identity, humans: Mapping[str, HumanImage]
) -> RunHeader:
    prefix = _prefix(request.prefix)
    paths = {key: f"{prefix}{human.path}" for key, human in humans.items()}
    items = _some_found(_items(source.storage, paths), request.images, paths)
    return plan_run(location, items, source=source.name, identity=identity, config=request.config, origin="import")


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

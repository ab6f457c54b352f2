"""Writes a folder's annotated images as a finished run. For `cli/import_annotation` and `label_studio` (a type).

An image that cannot be read is a row with its failure, and what is left out is counted. The number of workers decides
no byte.
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from pseudoris.files.key_order import path_key
from pseudoris.files.location import RunLocation
from pseudoris.images.pixels import import_plugins
from pseudoris.images.prover import Prover
from pseudoris.interchange.imports.annotation_files import ImportRequest, read_annotation
from pseudoris.interchange.imports.human_annotation import (
    STAGE_IMPORT,
    Annotation,
    HumanImage,
    annotate_image,
    relative_path,
)
from pseudoris.primitives.errors import ConfigError, ImageError, RefusedError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.config_layers import as_begun
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.schemas.tables import SPLITS
from pseudoris.store.exclusion_rules import planned_rules
from pseudoris.store.runs.header import read_header
from pseudoris.store.runs.held_out_pictures import TRAIN
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.planned_run import PlannedRun, RunRequest, plan_run
from pseudoris.store.runs.stored_exclusions import content_matcher
from pseudoris.store.sessions.thread_executor import OnProgress, WrittenRun, write_run
from pseudoris.store.sources import Source, SourceItem, open_source
from pseudoris.store.sources.proven_shard import read_shard

WITHOUT_PIXELS: Final = "masks without pixels (in this call)"
BAD_MASKS: Final = "bad masks, and what is said of them (in this call)"


@dataclass(frozen=True)
class ImportSummary(WrittenRun):
    """The state of a run after an import.

    Attributes:
        left_out: Number of the things in the files that were not imported, by kind.
        num_tasks: For Label Studio: images by what a person did with them.
    """

    left_out: Mapping[str, int]
    num_tasks: Mapping[str, int] = field(default_factory=dict)


def import_annotation(
    request: ImportRequest, location: RunLocation, *, on_progress: OnProgress, on_wait: Callable[[str], None]
) -> ImportSummary:
    """Import a human's annotation into the run at `location`, or continue an import of the same.

    `on_progress` is called after each commit, `on_wait` with the holder of the run before a wait.
    """
    config = request.config
    source = open_source(request.images, config.source, exclude=location.root, limits=config.placement.storage)
    if source.named or source.patterns:
        raise ConfigError(
            f"IMAGES {request.images!r} is not a folder. Name the folder that the file names are relative to. Images "
            "in tars or tables cannot be imported."
        )
    annotation = read_annotation(request)
    location.probe()
    with RunLock.held(location, on_wait=on_wait) as lock:
        if (begun := read_header(location)) is not None:
            config = as_begun(config, begun.config)
            request = replace(request, config=config)
        run, humans = _plan(request, annotation, source, location, lock)
        # The header decides: a run that an earlier version began has no splits.
        annotator = _Annotator(request, humans, {} if run.header.splits is None else _splits_of(humans))
        exclusions, num_workers = content_matcher(location, run.header), request.num_workers
        limits = config.images.hashed(is_needed=exclusions is not None and exclusions.has_hashes)
        # This process needs the decoder plug-ins too, because it decodes images after the provers.
        import_plugins(config.images.decoder_plugins)
        provers: queue.SimpleQueue[Prover] = queue.SimpleQueue()
        with ExitStack() as stack:
            for _ in range(num_workers):
                provers.put(stack.enter_context(Prover(limits)))

            def make(entries: Sequence[PlanEntry]) -> Shard:
                prover = provers.get()
                try:
                    read = read_shard(run.header.source, config, entries, prover=prover, exclusions=exclusions)
                finally:
                    provers.put(prover)
                return annotator.annotated(read)

            written = write_run(location, run, make, lock=lock, on_progress=on_progress, num_workers=num_workers)
    left_out = Counter({WITHOUT_PIXELS: sum(annotator.num_without_pixels), **annotation.left_out})
    if bad := annotator.bad:
        left_out[f"{BAD_MASKS}, such as {min(bad)}"] = len(bad)
    left_out.update({rule.dropped_phrase: rule.num_excluded or 0 for rule in planned_rules(run.header)})
    return ImportSummary(**vars(written), left_out=+left_out)


@dataclass(frozen=True, slots=True)
class _Annotator:
    """Gives images, by id, what a person said of them, and their split. Several threads use it at the same time."""

    request: ImportRequest
    humans: Mapping[str, HumanImage]
    splits: Mapping[str, str]
    num_without_pixels: list[int] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def annotated(self, read: Shard) -> Shard:
        """Return a shard with its annotation."""
        started, request, done, told = time.perf_counter(), self.request, list[ShardImage](), list[str]()
        annotate = partial(annotate_image, orientation=request.orientation, limits=request.config.images)
        for each in read.images:
            bad_masks = list[str]()
            skip = bad_masks.append if request.skips_bad_masks else None
            human = annotate(each, self.humans[each.image_id], on_bad_mask=skip)
            told += (f"{each.key}, {why}" for why in bad_masks)
            done.append(replace(human, split=self.splits.get(each.image_id) or None))
        sound = [each for each in done if each.failure is None]
        num_left_out = sum(len(self.humans[each.image_id].masks) - len(each.masks) for each in sound)
        self.num_without_pixels.append(num_left_out - len(told))
        self.bad.extend(told)
        return read.with_images(tuple(done)).with_seconds(STAGE_IMPORT, time.perf_counter() - started)


def _splits_of(humans: Mapping[str, HumanImage]) -> dict[str, str]:
    """Return the split of each image, "" for none, if they are `train` and others; empty if an image is in several."""
    found = {key: {each.split or "" for each in human.phrases} or {""} for key, human in humans.items()}
    names = set[str]().union(*found.values()) - {""}
    is_divided = TRAIN in names and len(names) > 1 and names <= {*SPLITS}
    if not is_divided or any(len(own) > 1 for own in found.values()):
        return {}
    return {key: split for key, (split,) in found.items()}


def _plan(
    request: ImportRequest, annotation: Annotation, source: Source, location: RunLocation, lock: RunLock
) -> tuple[PlannedRun, dict[str, HumanImage]]:
    """Return the plan in `location`, and what its images are annotated with, by id; write it first if there is none."""
    prefix, root = f"{relative_path(request.prefix, where='--prefix')}/" if request.prefix else "", source.root
    keyed = {path_key(f"{prefix}{human.path}"): human for human in annotation.images}
    humans = dict(sorted(keyed.items()))
    if not humans:
        raise ConfigError(f"ANNOTATION {request.annotation!r} lists no images, so there is nothing to import.")

    def look(pair: tuple[str, HumanImage]) -> SourceItem:
        key, human = pair
        try:
            found = root.stat(f"{prefix}{human.path}")
        except (FileNotFoundError, ImageError, RefusedError):
            # An image that is missing or cannot be looked at is planned too, and quarantined when it is read.
            return SourceItem(key)
        return SourceItem(key, found.size_bytes, etag=found.etag, mtime_ns=found.mtime_ns)

    def listed() -> Iterator[SourceItem]:
        is_found = False
        # Threads look up the images, because each look-up in a bucket is a request, which is mostly waiting.
        for item in map_in_threads(look, humans.items(), root.storage.max_readers):
            is_found = is_found or item.size_bytes is not None
            yield item
        if not is_found:
            raise ConfigError(
                f"None of the {len(humans):,} files of ANNOTATION is below IMAGES {request.images!r}. The first one is "
                f"{prefix}{next(iter(humans.values())).path}. See --prefix."
            )

    identity = request.identity(annotation.digests)
    wanted = RunRequest("import", source.name, identity, request.config, exclusions=request.exclusions, lock=lock)
    run = plan_run(location, replace(wanted, splits=_splits_of(humans)), listed)
    return run, {image_id(key): human for key, human in humans.items()}

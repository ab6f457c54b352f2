"""An import from its files to a finished run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import Shard
from pseudoris.store.exclusions.exclusion_rules import planned_rules
from pseudoris.store.exclusions.stored_exclusions import content_matcher
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.training.imports.annotation_files import read_annotation
from pseudoris.training.imports.human_annotation import STAGE_IMPORT, HumanImage, annotate_image
from pseudoris.training.imports.import_plan import ImportRequest, open_images, plan_import
from pseudoris.training.thread_executor import OnProgress, WrittenRun, proving, write_run


@dataclass(frozen=True, slots=True)
class ImportSummary(WrittenRun):
    """The state of a run after an import.

    Attributes:
        left_out: How many things of the files were not taken over, by what they are.
        num_without_pixels: Masks without a pixel that this call left out.
    """

    left_out: Mapping[str, int]
    num_without_pixels: int


def import_annotation(
    request: ImportRequest, location: RunLocation, *, on_progress: OnProgress, on_wait: Callable[[str], None]
) -> ImportSummary:
    """Import a human's annotation into the run at `location`, or continue an import of the same.

    Args:
        request: What, and from where.
        location: A new run, or one that the same request began.
        on_progress: Called after each commit.
        on_wait: Called with the holder of the run, before a wait.

    Raises:
        ConfigError: The user must fix something; or the run there is another one.
    """
    source = open_images(request, location.root)
    annotation = read_annotation(request)
    # A list, for several threads add to it.
    num_without_pixels: list[int] = []
    location.probe()
    with RunLock.held(location, on_wait=on_wait) as lock:
        run, humans = plan_import(request, annotation, source, location)
        exclusions = content_matcher(location, run.header)
        has_hash = exclusions is not None and exclusions.has_hashes
        with proving(request.config.images, request.num_workers, has_hash=has_hash) as provers:

            def make(entries: Sequence[PlanEntry]) -> Shard:
                prover = provers.get()
                try:
                    read = read_shard(run.header.source, request.config, entries, prover=prover, exclusions=exclusions)
                finally:
                    provers.put(prover)
                shard, number = _annotated(read, humans, request)
                num_without_pixels.append(number)
                return shard

            written = write_run(
                location, run, make, lock=lock, on_progress=on_progress, num_workers=request.num_workers
            )
    rules = planned_rules(run.header)
    excluded = {rule.dropped_phrase: rule.num_excluded for rule in rules if rule.num_excluded}
    return ImportSummary(
        written.header,
        written.totals,
        written.num_shards_before,
        left_out={**annotation.left_out, **excluded},
        num_without_pixels=sum(num_without_pixels),
    )


def _annotated(shard: Shard, humans: Mapping[str, HumanImage], request: ImportRequest) -> tuple[Shard, int]:
    """Return the shard with what humans said of it, and the number of masks without a pixel."""
    started = time.perf_counter()
    images, num_without_pixels = [], 0
    for image in shard.images:
        human = humans[image.image_id]
        done = annotate_image(image, human, orientation=request.orientation, limits=request.config.images)
        if done.failure is None:
            num_without_pixels += len(human.masks) - len(done.masks)
        images.append(done)
    seconds = time.perf_counter() - started
    return shard.with_images(tuple(images)).with_seconds(STAGE_IMPORT, seconds), num_without_pixels

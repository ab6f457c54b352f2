"""The dry run: what `annotate` would do, without writing a byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Final

from pseudoris.pipeline.cluster import connected, lone_node, node_resources
from pseudoris.pipeline.domain_sample import accepted_domain, sampled
from pseudoris.pipeline.fan_out import list_on_cluster
from pseudoris.pipeline.identity import identity_before_ray, identity_on_cluster
from pseudoris.pipeline.resources import plan_actors
from pseudoris.pipeline.run_contract import RunOptions, RunPlan, check_options, sampled_without
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.extension import ExtensionTally, new_entries
from pseudoris.store.runs.header import check_identity, check_origin, read_header
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.pending_work import quarantined_shards
from pseudoris.store.runs.plan import PlanTally, assign_shards, iter_plan
from pseudoris.store.runs.receipts import Totals
from pseudoris.store.runs.stored_exclusions import ExcludedItems, nothing_is_left
from pseudoris.store.sources import SourceItem, open_source
from pseudoris.workers.stages import STAGES

# Source: measured, all four tables, on the demonstration run (69 images, 321 masks, 14,124 draws, `tiny`): the bytes of
# a shard's footers and column docs, and the compressed bytes of each row.
BYTES_PER_SHARD: Final = 16_000
BYTES_PER_IMAGE: Final = 100
BYTES_PER_MASK: Final = 150
BYTES_PER_DRAW: Final = 30
# The true number is unknown before the models run; the scenes of the demonstration have 4.6.
ASSUMED_MASKS_PER_IMAGE: Final = 5


def dry_run(source: str, out: str, config: RunConfig, *, options: RunOptions | None = None) -> RunPlan:
    """Return what `annotate` would do with the same arguments. Nothing is written, no model is loaded.

    Ray is not started for a SOURCE on a disk, unless a GPU is asked for, which only a process of Ray sees.

    Raises:
        ConfigError: `annotate` would refuse to start: weights, identity, resources or SOURCE are wrong.
    """
    options = options or RunOptions()
    location = RunLocation.open(out, config.source.endpoint_url, config.placement.storage)
    check_options(location, options)
    listing = open_source(source, config.source, exclude=location.root, limits=config.placement.storage)
    header = read_header(location)
    # Checked before Ray, which takes seconds to start: most mistakes are in a path.
    if header is None:
        listing.check_not_empty()
    else:
        check_origin(location, header, "annotate")
    with sampled(config, listing, sampled_without(location, header, options)) as domain_found:
        here = identity_before_ray(config, header, listing.name, location=location)
        domain = accepted_domain(domain_found(), config)
    is_on_disk = listing.root.store == "disk"
    needs_ray = here is None or not is_on_disk or any(pool.num_gpus for pool in config.model_pools().values())
    with connected(config.placement.address, config.placement.start_timeout_s) if needs_ray else nullcontext():
        actors = plan_actors(node_resources() if needs_ray else [lone_node()], config)
        identity = here or identity_on_cluster(config)
        if header is not None:
            check_identity(header, identity, preset=config.preset, allow_mixed=config.placement.allow_mixed)
        excluded = ExcludedItems(options.exclusions)
        items = list_on_cluster(listing, config.placement.read) if needs_ray else listing.list()
        tally = _listed(items, config, options.limit, excluded) if header is None else _planned(location, header)
        if excluded.total and not tally.num_images:
            raise nothing_is_left(options.exclusions, excluded)
        extension = _extension(items, location, header, options)
    if extension is not None:
        tally.num_images += extension.num_new
        tally.num_shards += extension.num_shards
        tally.size_bytes += extension.size_bytes
    output_bytes, basis, num_done = _estimate(location, tally, config)
    return RunPlan(
        source=listing.name,
        out=location.root,
        num_images=tally.num_images,
        num_repeated=tally.num_repeated,
        num_shards=tally.num_shards,
        num_shards_done=num_done,
        input_bytes=tally.size_bytes,
        actors=actors,
        weights={stage.name: (stage.settings(config).weights.uri, identity.weights[stage.name]) for stage in STAGES},
        device_kind=identity.device_kind,
        output_bytes=output_bytes,
        output_basis=basis,
        extension=extension,
        num_to_retry=_num_to_retry(location, options),
        num_excluded=excluded.total,
        domain=domain,
        left_out=(*(excluded.notices() if header is None else ()), *listing.left_out.notices()),
    )


def _listed(items: Iterator[SourceItem], config: RunConfig, limit: int | None, excluded: ExcludedItems) -> PlanTally:
    tally = PlanTally()
    for _ in itertools.islice(assign_shards(excluded.kept(items), config.shards, tally=tally), limit):
        pass
    return tally


def _extension(
    items: Iterator[SourceItem], location: RunLocation, header: RunHeader | None, options: RunOptions
) -> ExtensionTally | None:
    if header is None or not options.is_extension:
        return None
    tally = ExtensionTally()
    for _ in new_entries(location, header, items, tally=tally, limit=options.limit):
        pass
    return tally


def _num_to_retry(location: RunLocation, options: RunOptions) -> int | None:
    if not options.is_retry:
        return None
    return quarantined_shards(cached_receipts(location), options.reasons).num_images


def _planned(location: RunLocation, header: RunHeader) -> PlanTally:
    size_bytes = sum(entry.size_bytes or 0 for _, entries in iter_plan(location, header) for entry in entries)
    return PlanTally(header.num_images, header.num_shards, header.num_repeated, size_bytes)


def _estimate(location: RunLocation, tally: PlanTally, config: RunConfig) -> tuple[int, str, int]:
    """Return the tables' estimated bytes, the basis of the estimate, and the number of committed shards."""
    totals = Totals()
    for receipt in cached_receipts(location):
        totals.add(receipt)
    done = totals.sum()
    if done.images:
        basis = f"from the {done.images} images committed so far, {done.output_bytes // done.images} bytes each"
        return done.output_bytes * tally.num_images // done.images, basis, done.shards
    per_mask = BYTES_PER_MASK + draws_per_mask(config) * BYTES_PER_DRAW
    tables = tally.num_shards * BYTES_PER_SHARD
    tables += tally.num_images * (BYTES_PER_IMAGE + ASSUMED_MASKS_PER_IMAGE * per_mask)
    basis = f"assuming {ASSUMED_MASKS_PER_IMAGE} masks per image, {per_mask:,} bytes per mask as on the bundled scenes"
    if config.shards.embed_images:
        return tables + tally.size_bytes, f"{basis}, plus the embedded images", 0
    return tables, basis, 0


def draws_per_mask(config: RunConfig) -> int:
    """Return how many captions are drawn per mask: one beam and the samples, for each crop kind."""
    captions = config.captions
    crops = len(captions.context_scales) + captions.has_masked_crop
    return crops * (1 + len(captions.sampling.top_k) + len(captions.sampling.top_p))

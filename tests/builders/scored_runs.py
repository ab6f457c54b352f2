"""Finished runs whose candidates have scores of all sizes, as a filter stage of a given rule would have left them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from pseudoris.files.location import RunLocation
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.keep_rule import OPTIONAL_COLUMNS
from pseudoris.schemas.run_records import Identity, PlanEntry, Receipt, RunHeader
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Shard, ShardImage
from pseudoris.store.runs.garbage import run_gc
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.planned_run import package_versions
from pseudoris.store.sessions.refiltered_run import WRITERS
from tests.store.builders import commit_made, empty, make_entries, make_mask, quarantined, start_run

TEXTS = ("the red circle", "a circle", "small dotted square", "the left one", "a photo of a star")


def scored_run(location: RunLocation, *settings: str, num_shards: int = 4, per_shard: int = 5, **kinds) -> RunHeader:
    """Write a complete run of `num_shards`, up to its last manifest; `settings` as `filtering.tau=1.1`."""
    header = begin(location, *settings, num_shards=num_shards, per_shard=per_shard)
    for shard in range(num_shards):
        commit_scored(location, header, shard, **kinds)
    finish(location)
    return header


def begin(location: RunLocation, *settings: str, num_shards: int = 4, per_shard: int = 5) -> RunHeader:
    settings = ("filtering.tau=1.0", *settings)
    identity = Identity(
        method=load_config("tiny", None, list(settings)).method(),
        weights={"propose": "a" * 64, "caption": "b" * 64, "filter": "c" * 64},
        device_kind="cpu",
        versions={"numpy": "2", **package_versions(WRITERS)},
    )
    entries = make_entries(num_shards, per_shard)
    return start_run(location, entries, *settings, identity=identity, created_utc="2026-01-01T00:00:00+00:00")


def commit_scored(
    location: RunLocation, header: RunHeader, shard: int, *, generation: int = 0, is_repair: bool = False, **kinds
) -> Receipt:
    finished = scored_shard(header.config, read_shard_plan(location, header, shard), **kinds)
    return commit_made(location, header, replace(finished, generation=generation), is_repair=is_repair)


def scored_shard(config: RunConfig, entries: Sequence[PlanEntry], **kinds) -> Shard:
    """Return a shard of images that are, in turn: with masks that compete, one mask, competing, empty, quarantined."""
    images = tuple(_image(config, number, entry, **kinds) for number, entry in enumerate(entries))
    seconds = {"propose": 1.5, "caption": 2.0, "filter": 0.25}
    return Shard(entries[0].shard, 0, images, seconds, ("node-a",))


def finish(location: RunLocation) -> None:
    run_gc(location)
    write_manifest(location)


def keeps(config: RunConfig, expression: ExpressionRecord) -> bool:
    """Say in plain words what the rule of a configuration keeps, of an expression of one mask."""
    filtering = config.filtering
    first = expression.samples[0].log_prob if expression.samples else None
    scores = {
        "uniqueness": expression.uniqueness,
        "correctness": expression.correctness,
        "distinctiveness": expression.distinctiveness,
        "count": len(expression.samples),
        "log_prob": first,
        **{name: getattr(expression, name) for name in OPTIONAL_COLUMNS},
    }
    if expression.distinctiveness is None and filtering.lone_masks == "drop":
        return False
    if expression.distinctiveness is not None and expression.distinctiveness <= filtering.tau:
        return False
    for condition in filtering.keep:
        value, bound = scores[condition.column], condition.bound
        if value is None:
            continue
        holds = {">": value > bound, ">=": value >= bound, "<": value < bound, "<=": value <= bound}
        if not holds[condition.comparison]:
            return False
    return True


def _image(config: RunConfig, number: int, entry: PlanEntry, *, has_humans: bool = False) -> ShardImage:
    if number % 5 == 3:
        return empty(entry)
    if number % 5 == 4:
        return quarantined(entry)
    num_masks = 1 if number % 5 == 1 else 3
    masks = tuple(make_mask(entry.image_id, n, (2 + n, 2, 9 + n, 7)) for n in range(num_masks))
    draw = random.Random(entry.image_id)
    expressions: list[ExpressionRecord] = []
    for n, mask in enumerate(masks):
        rival = masks[(n + 1) % num_masks].mask_id if num_masks > 1 else None
        expressions += [_scored(config, draw, mask.mask_id, text, rival) for text in TEXTS]
        if has_humans:
            # Below any bound, and kept; one is of two masks, which a filter stage passes through.
            expressions.append(
                ExpressionRecord((mask.mask_id,), "what a person says", (), correctness=0.0, kept=True, source="human")
            )
    if has_humans and num_masks > 1:
        both = tuple(mask.mask_id for mask in masks[:2])
        expressions.append(ExpressionRecord(both, "both of them", _samples(draw, 1), kind="group", kept=False))
    return replace(empty(entry), masks=masks, expressions=tuple(expressions))


def _scored(config: RunConfig, draw: random.Random, target: str, text: str, rival: str | None) -> ExpressionRecord:
    against = {"uniqueness": draw.uniform(0.5, 2), "rival_mask_id": rival} if rival else {}
    # Steps, so that some lie at a bound exactly.
    distinctiveness = round(draw.uniform(0.5, 1.7), 1) if rival else None
    scored = ExpressionRecord(
        (target,),
        text,
        _samples(draw, draw.randint(1, 4)),
        head_noun=text.rpartition(" ")[2],
        correctness=round(draw.uniform(0.1, 0.9), 1),
        distinctiveness=distinctiveness,
        **against,
    )
    return replace(scored, kept=keeps(config, scored))


def _samples(draw: random.Random, count: int) -> tuple[CaptionSample, ...]:
    drawn: Sequence[tuple[str, str, int | None, float | None]] = draw.sample(
        [("masked", "beam", None, None), ("context_1.2", "top_p", None, 0.4), ("masked", "top_k", 5, None)] * 2, count
    )
    return tuple(CaptionSample(*each, round(-draw.uniform(0.5, 9), 3)) for each in drawn)

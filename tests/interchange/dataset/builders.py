"""Runs with real pictures, in the dataset's own terms: every default is safe."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pseudoris.files.location import RunLocation
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PlanEntry, Receipt, RunHeader
from pseudoris.schemas.shard import ExpressionRecord, ShardImage
from tests.builders.images import png
from tests.builders.sources import entries_of, write_files
from tests.store.builders import (
    HEIGHT,
    WIDTH,
    commit_images,
    empty,
    make_expression,
    make_identity,
    make_mask,
    start_run,
)

# (mask index, or those of several masks or of none, text, fields that differ)
Row = tuple[int | tuple[int, ...], str, dict[str, object]]


def default_rows(number: int) -> list[Row]:
    """Two masks with four kept texts each, and one that was not kept."""
    kept = [(mask, f"text {at} of {number}", {"distinctiveness": 1.1 + at / 10}) for mask in (0, 1) for at in range(4)]
    return [*kept, (1, "not kept", {"distinctiveness": 0.5, "kept": False})]


def composed_rows(number: int, *, num_none: int = 3) -> list[Row]:
    """Those rows, one of both masks, and some of none, as the composer writes them."""
    composed = {"source": "composer", "samples": (), "uniqueness": None, "correctness": None, "distinctiveness": None}
    composed |= {"rival_mask_id": None, "head_noun": None}
    both = ((0, 1), f"the two of {number}", {**composed, "kind": "group"})
    none = [((), f"none {at} of {number}", {**composed, "kind": "none"}) for at in range(num_none)]
    return [*default_rows(number), both, *none]


def make_image(entry: PlanEntry, number: int, rows: Sequence[Row]) -> ShardImage:
    data = png(height=HEIGHT, width=WIDTH, seed=number)
    indices = [(mask,) if isinstance(mask, int) else mask for mask, _, _ in rows]
    num_masks = max((each for of_row in indices for each in of_row), default=-1) + 1
    masks = tuple(make_mask(entry.image_id, at, (3 + at, 2, 9 + at, 7)) for at in range(num_masks))
    expressions: list[ExpressionRecord] = []
    for of_row, (_, text, fields) in zip(indices, rows, strict=True):
        targets = tuple(masks[each].mask_id for each in of_row)
        rival = masks[(of_row[0] + 1) % num_masks].mask_id if len(of_row) == 1 and num_masks > 1 else None
        expression = replace(make_expression("", text, rival=rival), target_mask_ids=targets)
        expressions.append(replace(expression, **fields))
    facts = {"data": data, "sha256": sha256_hex(data), "masks": masks}
    return replace(empty(entry), **facts, expressions=tuple(expressions))


@dataclass(frozen=True)
class BuiltRun:
    """A run whose images also lie as files in SOURCE, beside it; `image` makes one of a plan's entry."""

    location: RunLocation
    source: Path
    header: RunHeader
    image: Callable[[PlanEntry], ShardImage]

    def commit(self, *shards: int, generation: int = 0) -> list[Receipt]:
        options = {"generation": generation, "embed_images": self.header.config.shards.embed_images}
        return commit_images(self.location, self.header, self.image, *shards, **options)


def build_run(
    folder: Path,
    *,
    is_committed: bool = True,
    num_shards: int = 3,
    per_shard: int = 4,
    is_embedding: bool = True,
    rows: Callable[[int], Sequence[Row]] = default_rows,
    prefix: str = "s",
    recipe: str | None = None,
) -> BuiltRun:
    """Return a run below `folder`, all of it committed."""
    location, source = RunLocation.open(str(folder / "run")), folder / "images"
    numbers = {f"{prefix}{at // per_shard}-{at % per_shard}.png": at for at in range(num_shards * per_shard)}
    write_files(source, {name: png(height=HEIGHT, width=WIDTH, seed=number) for name, number in numbers.items()})
    header = start_run(
        location,
        entries_of(numbers, per_shard=per_shard, source=source),
        f"shards.embed_images={json.dumps(is_embedding)}",
        origin="annotate" if recipe is None else "ppt",
        source=str(source),
        identity=make_identity(**({} if recipe is None else {"method": {"recipe": recipe}})),
    )

    def image(entry: PlanEntry) -> ShardImage:
        return make_image(entry, numbers[entry.key], rows(numbers[entry.key]))

    run = BuiltRun(location, source, header, image)
    if is_committed:
        run.commit()
    return run

"""Runs with real pictures, in the dataset's own terms: every default is safe."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import PlanEntry, Receipt, RunHeader
from pseudoris.schemas.shard import ExpressionRecord, Shard, ShardImage
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.header import create_header
from pseudoris.store.runs.plan import read_shard_plan, write_plan
from tests.builders.images import png
from tests.store.builders import HEIGHT, WIDTH, make_expression, make_identity, make_mask

# (mask index, text, fields that differ)
Row = tuple[int, str, dict[str, object]]


def default_rows(number: int) -> list[Row]:
    """Two masks with four kept texts each, and one that was not kept."""
    kept = [(mask, f"text {at} of {number}", {"distinctiveness": 1.1 + at / 10}) for mask in (0, 1) for at in range(4)]
    return [*kept, (1, "not kept", {"distinctiveness": 0.5, "kept": False})]


def make_image(entry: PlanEntry, number: int, rows: Sequence[Row]) -> ShardImage:
    data = png(height=HEIGHT, width=WIDTH, seed=number)
    num_masks = max((mask for mask, _, _ in rows), default=-1) + 1
    masks = tuple(make_mask(entry.image_id, at, (3 + at, 2, 9 + at, 7)) for at in range(num_masks))
    expressions: list[ExpressionRecord] = []
    for mask, text, fields in rows:
        rival = masks[(mask + 1) % num_masks].mask_id if num_masks > 1 else None
        expressions.append(replace(make_expression(masks[mask].mask_id, text, rival=rival), **fields))
    return ShardImage(
        entry.position,
        entry.image_id,
        entry.key,
        data,
        sha256=sha256_hex(data),
        height=HEIGHT,
        width=WIDTH,
        masks=masks,
        expressions=tuple(expressions),
    )


class BuiltRun:
    """A run whose images also lie as files in SOURCE, beside it."""

    def __init__(
        self,
        location: RunLocation,
        source: Path,
        *,
        num_shards: int = 3,
        per_shard: int = 4,
        is_embedding: bool = True,
        rows: Callable[[int], Sequence[Row]] = default_rows,
        prefix: str = "s",
        recipe: str | None = None,
    ) -> None:
        self.location, self.source, self._rows, self._is_embedding = location, source, rows, is_embedding
        keys = [f"{prefix}{shard}-{at}.png" for shard in range(num_shards) for at in range(per_shard)]
        entries = []
        source.mkdir(parents=True, exist_ok=True)
        for number, key in enumerate(keys):
            path = source / key
            path.write_bytes(png(height=HEIGHT, width=WIDTH, seed=number))
            facts = path.stat()
            shard, position = divmod(number, per_shard)
            entry = PlanEntry(shard, position, image_id(key), key, facts.st_size, None, facts.st_mtime_ns)
            entries.append(entry)
        self._numbers = {key: number for number, key in enumerate(keys)}
        config = load_config("tiny", None, [f"shards.embed_images={json.dumps(is_embedding)}"])
        plan = write_plan(location, entries)
        identity = make_identity()
        header = RunHeader(
            origin="annotate" if recipe is None else "ppt",
            source=str(source),
            created_utc="2026-01-01T00:00:00Z",
            plan_parts=plan.parts,
            num_images=plan.num_images,
            num_repeated=0,
            num_shards=plan.num_shards,
            identity=identity if recipe is None else identity.model_copy(update={"method": {"recipe": recipe}}),
            config=config,
            config_sha256=config_hash(config),
        )
        self.header = create_header(location, header)

    def image(self, entry: PlanEntry) -> ShardImage:
        number = self._numbers[entry.key]
        return make_image(entry, number, self._rows(number))

    def commit(self, *shards: int, generation: int = 0) -> list[Receipt]:
        receipts = []
        for number in shards or range(self.header.num_shards):
            entries = read_shard_plan(self.location, self.header, number)
            shard = Shard(number, generation, tuple(map(self.image, entries)))
            ids = [entry.image_id for entry in entries]
            outcome = commit_shard(
                self.location,
                shard,
                planned_ids=ids,
                embed_images=self._is_embedding,
                provenance=Provenance(header_sha256=self.header.sha256),
            )
            receipts.append(outcome.receipt)
        return receipts


def build_run(folder: Path, *, is_committed: bool = True, **options: object) -> BuiltRun:
    """Return a run below `folder`, all of it committed."""
    run = BuiltRun(RunLocation.open(str(folder / "run")), folder / "images", **options)
    if is_committed:
        run.commit()
    return run

"""`annotate --masks-from RUN`: new captions on old masks. For `run_plan` and `shard_tasks`.

The new run has the parent's plan, shard by shard, and its settings of masks, images, shards and SOURCE. So its tables
equal, byte for byte, those of a run from scratch that proposes the same masks. Each image is read again. One whose
bytes have changed is quarantined, and one that the parent quarantined keeps its reason: there are no masks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Final, Self

import pyarrow as pa

from pseudoris.files.location import RunLocation
from pseudoris.pipeline.run_contract import RunOptions
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import without_secrets
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import validate_as
from pseudoris.schemas.run_records import ParentRun, Receipt, RunHeader
from pseudoris.schemas.shard import Failure, MaskRecord, Shard, ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, FAILURES, IMAGES, MASKS, SCHEMAS
from pseudoris.store.runs.header import is_same_source
from pseudoris.store.runs.parents import Parent
from pseudoris.store.runs.receipts import part_path, read_receipt
from pseudoris.store.sources.proven_shard import STAGE_READ
from pseudoris.store.tables.annotations import mask_fields
from pseudoris.store.tables.open_run import JoinedTables, Row, failures_by_image
from pseudoris.store.tables.parts import chosen_schema, read_part

# The header of a run of these origins describes a mask proposer. In other runs, people or recipes made the masks.
_ORIGINS: Final = ("annotate", "refilter")
# The parent run decides these sections of the configuration.
_SECTIONS: Final = ("masks", "source", "images", "shards")


def masks_parent(
    config: RunConfig, location: RunLocation, header: RunHeader | None, options: RunOptions
) -> Parent | None:
    """Return the run that `placement.masks_from` names, for the run at `location`; None if masks are proposed.

    Args:
        config: Of this session.
        location: OUT.
        header: Of the run in OUT, if there is one.
        options: Of this session.

    Raises:
        ConfigError: The run in OUT was started the other way, RUN has no masks of a proposer, or `options` would
            change the plan, which is the parent's.
    """
    given = config.placement.masks_from
    if given is None:
        if header is not None and header.parent is not None:
            raise ConfigError(
                f"{location.root} takes its masks from {header.parent.location}: add --masks-from "
                f"{header.parent.location} to continue it, or name another output"
            )
        return None
    if header is not None and header.parent is None:
        raise ConfigError(
            f"{location.root} holds a run that proposes its own masks: leave --masks-from out to continue it, or name "
            "another output"
        )
    if options.limit is not None or options.is_extension or options.exclusions:
        raise ConfigError(
            "--masks-from takes the images of its run as they were planned: leave out --limit, --extend, --exclude and "
            "--only"
        )
    endpoint, storage = config.source.endpoint_url, config.placement.storage
    parent = Parent.open(RunLocation.open(given, endpoint, storage), location, config.source.allowed_query)
    # A refilter of combined runs has the masks of several proposers, as they have.
    origin = "combine" if parent.header.combined else parent.header.origin
    if origin not in _ORIGINS:
        raise ConfigError(
            f"--masks-from {given} is a run of `pseudoris {origin}`, whose masks no proposer made: give "
            f"one of {' or '.join(_ORIGINS)}"
        )
    return parent


def with_masks_of(parent: Parent, config: RunConfig, source: str) -> RunConfig:
    """Return `config` with the parent's settings of masks, SOURCE, images and shards.

    Raises:
        ConfigError: `source`, a `Source.name`, is not that of the parent, or the rest of `config` does not fit.
    """
    before = parent.header
    if not is_same_source(before, source):
        raise ConfigError(
            f"--masks-from {parent.location.root} holds masks of the images in {without_secrets(before.source)!r}, "
            f"but SOURCE is {without_secrets(source)!r}: give the first one. If its images have moved, let a "
            "link there lead to them"
        )
    tree, held = config.model_dump(), before.config.model_dump()
    return validate_as(RunConfig, {**tree, **{name: held[name] for name in _SECTIONS}})


@dataclass(frozen=True, slots=True)
class StoredMasks:
    """The masks of a pinned parent, as the workers of a run see them.

    Attributes:
        parent: The run that holds them; it is only read.
        retried: By shard, the generation that is read; 0 for all others.
        has_too_small: Whether the run asks how many masks were too small, as `composing.has_too_small`.
    """

    parent: Parent
    retried: Mapping[int, int]
    has_too_small: bool = False

    @classmethod
    def pinned(cls, parent: Parent, pin: ParentRun, *, has_too_small: bool = False) -> Self:
        """Return the masks that the parent had when the run started; those that a later retry replaced are an error.

        Raises:
            TransientError: Storage failed, or the parent's manifest cannot be read.
        """
        retried = {each.shard: each.generation for each in parent.receipts(pin) if each.generation}
        return cls(parent, retried, has_too_small)

    def onto(self, shard: Shard) -> Shard:
        """Return the shard as it was read, with the parent's masks.

        Raises:
            ConfigError: The parent's receipt or a part of it is missing or damaged.
        """
        location, generation = self.parent.location, self.retried.get(shard.shard, 0)
        receipt = read_receipt(location, shard.shard, generation)
        if receipt is None:
            raise ConfigError(
                f"the receipt of shard {shard.shard}, generation {generation}, is gone from {location.root}: run "
                f"`pseudoris verify {location.root}` to find all damage"
            )
        # Images are read from SOURCE, so only these columns of the parent's images table are needed.
        columns = ("image_id", "sha256", *(["num_too_small"] if self.has_too_small else []))
        images, failures = self._table(receipt, IMAGES, columns), self._table(receipt, FAILURES)
        where, nothing_said = f"shard {shard.shard} of {location.root}", SCHEMAS[EXPRESSIONS].empty_table()
        joined = JoinedTables.of(images, self._table(receipt, MASKS), nothing_said, where=where)
        rows = {row["image_id"]: (row, masks) for row, masks, _ in joined.rows()}
        failed = failures_by_image(failures)
        return shard.with_images(
            tuple(
                image if image.failure else _masked(image, *rows[image.image_id], failed.get(image.image_id))
                for image in shard.images
            )
        )

    def _table(self, receipt: Receipt, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        part = receipt.parts[table]
        name = self.parent.location.uri(part_path(table, part))
        return read_part(BytesIO(self.parent.read_part(table, part)), chosen_schema(table, columns), name)


def _masked(image: ShardImage, before: Row, masks: Sequence[Row], failed: Failure | None) -> ShardImage:
    if failed is not None:
        return image.quarantined(failed)
    if before["sha256"] != image.sha256:
        return image.quarantined(Failure(STAGE_READ, "changed", "the bytes have changed since its masks were proposed"))
    proposed = tuple(MaskRecord(**mask_fields(row)) for row in masks)
    return replace(image, masks=proposed, num_too_small=before.get("num_too_small"))

"""The shards and images that a page shows: spread evenly over a run; memory holds a few numbers a shard."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import pyarrow.compute as pc

from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import IMAGES, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.receipts import read_receipts
from pseudoris.store.tables.committed_tables import read_table


def _integers() -> array[int]:
    return array("q")


@dataclass(frozen=True, slots=True)
class CommittedShards:
    """Five numbers of each committed shard, in order: the receipts of a large run would fill the memory.

    Attributes:
        numbers: Numbers of the shards.
        generations: The latest generation of each shard.
        shown: Images that are not quarantined.
        quarantined: Images that are.
        expressions: Candidate rows.
    """

    numbers: array[int] = field(default_factory=_integers)
    generations: array[int] = field(default_factory=_integers)
    shown: array[int] = field(default_factory=_integers)
    quarantined: array[int] = field(default_factory=_integers)
    expressions: array[int] = field(default_factory=_integers)

    @classmethod
    def of(cls, location: RunLocation) -> Self:
        """Return those of a run; reads the latest manifest and the receipts that it lacks."""
        shards = cls()
        for receipt in cached_receipts(location):
            shards.numbers.append(receipt.shard)
            shards.generations.append(receipt.generation)
            shards.shown.append(receipt.counts.annotated + receipt.counts.empty)
            shards.quarantined.append(receipt.counts.quarantined)
            shards.expressions.append(receipt.counts.expressions)
        return shards

    def __len__(self) -> int:
        return len(self.numbers)

    def receipts(self, location: RunLocation, places: Iterable[int]) -> Iterator[Receipt]:
        """Yield the receipts of the shards at `places`, places in this order and not the shards' numbers."""
        return read_receipts(location, ((self.numbers[place], self.generations[place]) for place in places))


def choose_images(counts: Sequence[int], sample: int) -> dict[int, list[int]]:
    """Return which of `counts[s]` images of each shard s are shown: at most `sample`, evenly spaced over all shards."""
    total = sum(counts)
    num_shown = min(sample, total)
    chosen: dict[int, list[int]] = defaultdict(list)
    shard, start = 0, 0
    for number in range(num_shown):
        position = number * total // num_shown
        while position >= start + counts[shard]:
            start += counts[shard]
            shard += 1
        chosen[shard].append(position - start)
    return dict(chosen)


def find_images(location: RunLocation, shards: CommittedShards, image_ids: Collection[str]) -> list[tuple[int, int]]:
    """Return where images are, as `choose_images` says it: the shard's place, and the position in it.

    Those that the run does not have or has quarantined are left out. Reads shards until all are found.
    """
    found: list[tuple[int, int]] = []
    for place, receipt in enumerate(shards.receipts(location, range(len(shards))) if image_ids else ()):
        images = read_table(location, IMAGES, ("image_id", "status"), [receipt])
        shown = images.filter(pc.not_equal(images["status"], STATUS_QUARANTINED))["image_id"].to_pylist()
        found += [(place, position) for position, image in enumerate(shown) if image in image_ids]
        if len(found) == len(image_ids):
            break
    return found


def choose_shards(rows: Sequence[int], max_rows: int) -> list[int]:
    """Return evenly spaced shards that hold `max_rows` rows at most together: all where they do, one at the least."""
    num_chosen = len(rows)
    while True:
        chosen = [number * len(rows) // num_chosen for number in range(num_chosen)]
        num_rows = sum(rows[shard] for shard in chosen)
        if num_rows <= max_rows or num_chosen == 1:
            return chosen
        # Proportionally fewer; shards of unequal size may need more than one step.
        num_chosen = max(1, min(num_chosen - 1, num_chosen * max_rows // num_rows))

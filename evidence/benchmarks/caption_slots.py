"""How well the slots of captions are filled: steps and pairs that are computed, over those that captions need.

    python -m evidence.benchmarks.caption_slots [--preset base] [--gib 2.0 8.0 31.0 61.0] [--images 256]
    [--set KEY=VALUE …] [--json FILE]

Images have mixed numbers of masks (`mixed_counts`). Their queues are those of the engine, and so are the slots and what
fills them, in the memory of `--gib` and the preset's precision; its `auto` is float32. A model that stands in for CoCa
only ends rows: after as many steps as a caption has at most (`pairs`), or after 5 to 29 steps, drawn at random
(`steps`). Nothing here is timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from evidence.benchmarks.captioner import mixed_counts
from evidence.benchmarks.measurement import options, print_table, write_json
from pseudoris.schemas.card_settings import AUTO, crops_in_fixed_shapes
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions.cached_towers import CocaBlocks
from pseudoris.workers.captions.static_engine import caption_slots
from pseudoris.workers.captions.static_slots import STEPS_A_REFILL, RowSlots, Targets, run_slots
from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.device import compute_dtype

_SHORTEST, _LONGEST = 5, 29


def batches(counts: Sequence[int], num_kinds: int, *, together: int, most: int) -> Iterator[list[int]]:
    """Yield the crops of each set of what is decoded together: images up to `together` crops, of them up to `most`."""
    images, filled = list[int](), 0
    for count in [*counts, together]:
        if filled and filled + count * num_kinds > together:
            sets = list[int]()
            for num_crops in [each for each in images for _ in range(num_kinds)]:
                if sets and sum(sets) + num_crops > most:
                    yield sets
                    sets = []
                sets.append(num_crops)
            yield sets
            images, filled = [], 0
        images.append(count)
        filled += count * num_kinds


class Ended:
    """Slots whose rows and searches end after steps that are known."""

    def __init__(self, shape: Any, num_targets: int, num_rules: int) -> None:
        like = torch.zeros(0)
        self.shape, self.num_rules = shape, num_rules
        self.rows, self.searches = (
            RowSlots(shape, num_targets, num_rules, like),
            RowSlots(shape.lone, num_targets, 1, like),
        )
        self._left = [torch.zeros(count, dtype=torch.int64) for count in (shape.rows, shape.searches)]

    def decode(self, sizes: Sequence[int], steps: np.ndarray[Any, Any], of_searches: np.ndarray[Any, Any]) -> int:
        """Return the number of steps, from the crops that each target reads and the steps of each row and search."""
        count = len(sizes)
        targets = Targets(
            torch.zeros(count, self.shape.members, dtype=torch.int64),
            np.array(sizes),
            torch.zeros(count, self.shape.members),
        )
        self.rows.restart(targets, count * self.num_rules)
        self.searches.restart(Targets.alone(np.zeros(count, np.int64), targets.weights), count)
        self._needed = [torch.from_numpy(np.append(each, 0)) for each in (steps, of_searches)]
        least = STEPS_A_REFILL * sum(sizes) * self.num_rules // self.shape.pairs
        return run_slots(self._step, self._refill, self.rows, self.searches, least=least)

    def _slots(self) -> list[tuple[RowSlots, torch.Tensor, torch.Tensor]]:
        return list(zip([self.rows, self.searches], self._left, self._needed, strict=True))

    def _refill(self) -> None:
        for slots, left, needed in self._slots():
            begins = slots.refill()
            left.copy_(needed[slots.number.clamp(max=len(needed) - 1)].where(begins, left))

    def _step(self) -> None:
        for slots, left, _ in self._slots():
            left.sub_(1)
            slots.is_open.logical_and_(left > 0)


def measured(config: RunConfig, gib: float, counts: Sequence[int]) -> dict[str, Any]:
    """Return the row of one size of caches."""
    captions = config.captions.model_copy(update={"cache_bytes": int(gib * 2**30)})
    described = read_model_config(captions.architecture, is_captioner=True)
    with torch.device("meta"):
        model: Any = build_from_config(described).to(compute_dtype(config.compute))
    blocks = CocaBlocks(model)
    shape, together = caption_slots(blocks, captions), crops_in_fixed_shapes(AUTO)
    tokens = model.visual.attn_pool.query.shape[0] - 1
    crop_bytes = tokens * 2 * len(blocks.layers) * blocks.width * blocks.like.element_size()
    most = min(captions.cache_bytes // 2 // crop_bytes, together)
    num_rules = len(captions.decoding_rules()) - 1
    slots = Ended(shape, max(most, max(counts)), num_rules)
    numbers, sums = np.random.default_rng(2), np.zeros(5)
    for sets in batches(counts, len(captions.crop_kinds()), together=together, most=most):
        sizes = [min(count, shape.members) for count in sets for _ in range(count)]
        for is_drawn in (False, True):
            lowest, least = (_SHORTEST, _SHORTEST) if is_drawn else (_LONGEST - 1, _LONGEST)
            steps = numbers.integers(lowest, _LONGEST, size=len(sizes) * num_rules)
            of_searches = numbers.integers(least, _LONGEST + 1, size=len(sizes))
            done = slots.decode(sizes, steps, of_searches)
            needed = np.repeat(sizes, num_rules) @ steps + shape.beams * of_searches.sum()
            sums[2 * is_drawn : 2 * is_drawn + 2] += done * shape.all_pairs, needed
    return {
        "GiB": gib,
        "pair slots": shape.all_pairs,
        "crops": most,
        "pairs": sums[0] / sums[1],
        "steps": sums[2] / sums[3],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write the JSON."""
    given, rows = options(__doc__, arguments), list[dict[str, Any]]()
    # The tensors are small: threads would wait for each other.
    torch.set_num_threads(1)
    config = load_config(given.preset, assignments=given.assignments).without_card()
    for gib in given.gib:
        rows.append(measured(config, gib, mixed_counts(given.images)))
        write_json(rows, given.json)
    cells = [
        {name: f"{each:.3g}" if isinstance(each, float) else str(each) for name, each in row.items()} for row in rows
    ]
    print_table(f"{given.preset}, {config.compute.precision}, {given.images} images: computed / needed", cells)


if __name__ == "__main__":
    main()

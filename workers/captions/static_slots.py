"""Slots of rows, and of beam searches, which a device fills from a queue. For `static_decoder` and `static_engine`.

Which slots something gets depends on what else is decoded, so a slot must change no bit of it. The host must not wait:
it copies the queues to the device before the first step, and after every fourth step slots whose row has ended are
filled anew there. All tensors keep their addresses, because recorded steps use them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pseudoris.primitives.errors import BrokenDeviceError
from pseudoris.workers.captions.decoding_rules import Ints
from pseudoris.workers.captions.static_towers import SlotShape
from pseudoris.workers.captions.vocabulary_logits import score_dtype
from pseudoris.workers.device import to_device, to_host

# After this many steps slots are filled anew. A row waits for half of them on average when it has ended.
STEPS_A_REFILL = 4

# A row that is decided over the whole vocabulary at every turn ends before so many turns a token.
_MOST_IDLE_TURNS = 4
# The host lets at least so many refills pass before it looks again, fewer only if rows are shorter. Rows that enter
# last take about as many to end.
_LEAST_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Targets:
    """T crops to describe, or texts to score; each has one row for every rule. Tensors are on the device."""

    crops: torch.Tensor  # (T, M) int64, numbers of encodings that its rows read, its own first
    sizes: Ints  # (T,) how many of them
    weights: torch.Tensor  # (T, M) float, of the states under each crop in the mean of others

    @classmethod
    def alone(cls, crops: Ints, like: torch.Tensor) -> Targets:
        """Return crops (T,) that are read alone; `like` is on the device."""
        return cls(to_device(crops[:, None], like.device), np.ones_like(crops), like.new_zeros(len(crops), 1))


class RowSlots:
    """The N slots of rows with their R pairs, and the queue of the rows of up to T targets.

    A beam search counts as a row of one crop. Then slots and pairs, as many, are filled alike.

    Attributes:
        head: (1,) int64, how many rows of the queue have entered.
        length: (1,) int64, how many there are.
        number: (N,) int64, the row in each slot by its number in the queue; the number of all rows where there is none.
        is_open: (N,) bool, whether it is unfinished.
        members: (N, M) int64, its pairs, the own crop's first. Behind its last one they are the first again.
        pair_rows: (R,) int64, the slot whose row each pair belongs to.
        pair_crops: (R,) int64, the crop that it reads.
    """

    def __init__(self, shape: SlotShape, num_targets: int, num_rules: int, like: torch.Tensor) -> None:
        """Allocate the rows and pairs of `shape`, and a queue with room for all rules of `num_targets`."""
        device, rows, members = like.device, shape.rows, shape.members
        new, ints = partial(torch.zeros, device=device), partial(torch.zeros, dtype=torch.int64, device=device)
        self.capacity, self._num_rules, self._shape = num_targets * num_rules, num_rules, shape
        self.head, self.length = ints(1), ints(1)
        # The last target is none: it has no crops.
        self._crops, self._sizes = ints((num_targets + 1, members)), ints(num_targets + 1)
        self._weights = new((num_targets + 1, members), dtype=score_dtype(like.dtype))
        self.number, self.is_open, self.members = ints(rows), new(rows, dtype=torch.bool), ints((rows, members))
        self.pair_rows, self.pair_crops = ints(shape.pairs), ints(shape.pairs)
        self._is_used = new(shape.pairs, dtype=torch.bool)
        self._numbers, self._columns = torch.arange(rows, device=device), torch.arange(members, device=device)

    def restart(self, targets: Targets, num_rows: int) -> None:
        """Empty all slots, and queue the rows of `targets`, so many."""
        count = len(targets.sizes)
        self._sizes.zero_()
        self._crops[:count].copy_(targets.crops)
        self._sizes[:count].copy_(to_device(targets.sizes, self._sizes.device))
        self._weights[:count].copy_(targets.weights)
        self.number.fill_(self.capacity)
        self.is_open.zero_()
        self._is_used.zero_()
        self.length.fill_(num_rows)
        self.head.zero_()

    def weights(self) -> torch.Tensor:
        """Return the weights (N, M) of each row's members."""
        return self._weights.index_select(0, self.number // self._num_rules)

    def refill(self) -> torch.Tensor:
        """Fill slots whose rows have ended, as long as the next row's pairs fit; return those that begin, (N,) bool."""
        numbers, members = self._numbers, self._shape.members
        is_free = ~self.is_open
        is_pair_free = ~self._is_used | is_free.index_select(0, self.pair_rows)
        following = self.head + numbers
        targets = (following // self._num_rules).clamp(max=len(self._sizes) - 1)
        sizes = self._sizes.index_select(0, targets)
        ends = sizes.cumsum(0)
        starts = ends - sizes
        enters = (following < self.length) & (ends <= is_pair_free.sum()) & (numbers < is_free.sum())
        num_entering, num_taken = enters.sum(), (sizes * enters).sum()
        # The n-th row that enters takes the n-th free slot, and free pairs likewise.
        rank, pair_rank = is_free.cumsum(0) - 1, is_pair_free.cumsum(0) - 1
        slots, pairs = (each.to(torch.uint8).argsort(descending=True, stable=True) for each in (is_free, is_pair_free))
        begins, is_taken = is_free & (rank < num_entering), is_pair_free & (pair_rank < num_taken)
        self.number.copy_((self.head + rank).where(begins, self.number.masked_fill(is_free, self.capacity)))
        self.is_open.logical_or_(begins)
        entry = torch.searchsorted(ends, pair_rank, right=True).clamp(max=len(numbers) - 1)
        member = (pair_rank - starts.index_select(0, entry)).clamp(0, members - 1)
        crops = self._crops.view(-1).index_select(0, targets.index_select(0, entry) * members + member)
        self.pair_rows.copy_(slots.index_select(0, entry).where(is_taken, self.pair_rows))
        self.pair_crops.copy_(crops.where(is_taken, self.pair_crops))
        self._is_used.copy_(is_taken | ~is_pair_free)
        first, size = (each.index_select(0, rank.clamp(min=0))[:, None] for each in (starts, sizes))
        places = first + self._columns * (self._columns < size)
        found = pairs.index_select(0, places.clamp(max=len(pairs) - 1).view(-1)).view(self.members.shape)
        self.members.copy_(found.where(begins[:, None], self.members))
        self.head.add_(num_entering)
        return begins


def run_slots(
    step: Callable[[], None],
    refill: Callable[[], None],
    *slots: RowSlots,
    least: int,
    longest: int = 77,
    refills_a_turn: int = 1,
) -> int:
    """Decode all that is queued, rows of at most `longest` tokens; return the number of steps.

    The host looks seldom whether all has ended, because each look makes it wait for the GPU: first after `least` steps,
    which all takes at least, then as late as those before let it expect. At one of `refills_a_turn` refills wide rows
    move on.

    Raises:
        BrokenDeviceError: Nothing enters and nothing ends though every slot has had its turns: a card gives what it was
            not asked.
    """
    refill()
    seen: tuple[int, ...] = ()
    patience, most_idle = 0, _MOST_IDLE_TURNS * longest * refills_a_turn
    least_ahead = min(_LEAST_AHEAD, -(-longest // STEPS_A_REFILL))
    done, ahead = 0, max(-(-least // STEPS_A_REFILL), least_ahead)
    while True:
        for _ in range(ahead):
            for _ in range(STEPS_A_REFILL):
                step()
            refill()
        done += ahead
        progress = [torch.cat((each.head, each.length, each.is_open.sum()[None])) for each in slots]
        heads, lengths, num_open = np.stack(to_host(*progress)).T
        if not num_open.any():
            return done * STEPS_A_REFILL
        now = (*heads.tolist(), *num_open.tolist())
        patience, seen = (patience - ahead, seen) if now == seen else (most_idle, now)
        if patience < 0:
            raise BrokenDeviceError("no row of captions ends in fixed shapes")
        share = float((heads[lengths > 0] / lengths[lengths > 0]).min())
        ahead = least_ahead + int(done * (1 / share - 1) * 7 / 8)

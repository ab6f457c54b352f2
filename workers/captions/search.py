"""The rows of a search that are still under way: sampling rows and beams, and what they ask of the next level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workers.captions.beam import BeamSearch
from workers.captions.tree import Bools, Ints


@dataclass(frozen=True, slots=True)
class LiveBeams:
    """The beam search of one crop, with the prefix of each beam's parent in the last frontier."""

    crop: int
    search: BeamSearch
    parents: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Live:
    """Everything that is under way at one prefix length.

    Attributes:
        rows: (r,) numbers of the sampling rows.
        targets: (r,) their crops.
        parents: (r,) their prefixes in the last frontier.
        tokens: (r,) the tokens that they append to them.
        beams: The beam searches.
    """

    rows: Ints
    targets: Ints
    parents: Ints
    tokens: Ints
    beams: tuple[LiveBeams, ...]

    @property
    def num_searches(self) -> int:
        """Sampling rows and beam searches together; 0 once all are done."""
        return len(self.rows) + len(self.beams)

    def requests(self, sot: int) -> tuple[Ints, Ints, Ints]:
        """Return parents, tokens and crops of all rows: sampling rows first, then every beam of every search."""
        beams = [
            (parent, beam.tokens[-1] if beam.tokens else sot, live.crop)
            for live in self.beams
            for parent, beam in zip(live.parents, live.search.beams, strict=True)
        ]
        columns = np.array(beams, dtype=np.int64).reshape(-1, 3).T
        return (
            np.concatenate((self.parents, columns[0])),
            np.concatenate((self.tokens, columns[1])),
            np.concatenate((self.targets, columns[2])),
        )

    def halves(self) -> tuple[Live, Live]:
        """Return two parts; rows of one parent stay together as far as they can, so that little is shared."""
        order = np.argsort(self.parents, kind="stable")
        middle, beams = (len(order) + 1) // 2, (len(self.beams) + 1) // 2
        # An odd beam goes left, an odd row too: two searches are two parts in any case.
        if len(order) % 2 and len(self.beams) % 2:
            beams -= 1
        return self._part(order[:middle], self.beams[:beams]), self._part(order[middle:], self.beams[beams:])

    def continuing(self, keep: Bools, parents: Ints, tokens: Ints, beams: tuple[LiveBeams, ...]) -> Live:
        """Return the next level's rows: those to `keep`, with their new parents and tokens, and the beams."""
        return Live(self.rows[keep], self.targets[keep], parents[keep], tokens[keep], beams)

    def _part(self, index: Ints, beams: tuple[LiveBeams, ...]) -> Live:
        return Live(self.rows[index], self.targets[index], self.parents[index], self.tokens[index], beams)

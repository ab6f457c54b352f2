"""How many pairs a run has, and how many of them are decided; from its expressions alone."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.tables import EXPRESSIONS
from store.location import RunLocation
from store.reading import iter_table


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Pairs of image and text of a run.

    Attributes:
        decided: With a referent: D_sem, D_ref, H_sem.
        undecided: Whose candidates all have c = 0: H_ref before Select.
        candidates: Of all of them.
    """

    decided: int
    undecided: int
    candidates: int

    @property
    def a_text(self) -> float:
        """Candidates a pair; 0 without pairs."""
        return self.candidates / max(1, self.decided + self.undecided)


def count_pairs(location: RunLocation) -> PairCounts:
    """Return the counts of a run; memory is bounded by one shard, for a pair never leaves its image's.

    Raises:
        ConfigError: A part is missing.
        TransientError: Storage failed.
    """
    decided = undecided = candidates = 0
    for table in iter_table(location, EXPRESSIONS, ["image_id", "text", "kept"]):
        found = table.group_by(["image_id", "text"]).aggregate([("kept", "any")])
        num_decided = int(sum(found["kept_any"].to_pylist()))
        decided += num_decided
        undecided += found.num_rows - num_decided
        candidates += table.num_rows
    return PairCounts(decided, undecided, candidates)

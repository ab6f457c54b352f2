"""What must hold of what a listener said of a shard's expressions, and of the confidence that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.confidence import Rated, confidences, ranks
from schemas.keeping import Flags
from schemas.listening import ConfidenceConfig
from schemas.shard import SOURCE_COMPOSER
from store.content_checks import Problem, examples
from store.keeping import is_from, judged, scores_of

HEARD: Final = ("caption_score", "listener", "truth")
CONFIDENCE: Final = ("confidence", "rank")
# Another machine's exponential may differ in the last bits.
_TOLERANCE: Final = 1e-9


def confidence_problems(shard: int, table: pa.Table, config: ConfidenceConfig | None) -> Iterator[Problem]:
    """Check a listener's columns, and confidence and rank against the columns that they follow from.

    Args:
        shard: Number of the shard.
        table: Its expressions.
        config: How confidence follows; None where the run has none.
    """
    scores = scores_of(table)
    with np.errstate(invalid="ignore"):
        is_share = (scores["listener"] >= 0) & (scores["listener"] <= 1)
        is_probability = (scores["caption_score"] <= 0) & (scores["truth"] <= 0)
    is_heard = np.isfinite(scores["listener"])
    yield from _rows(shard, is_heard & ~is_share, "listener lies in [0, 1]")
    yield from _rows(shard, is_heard & ~is_probability, "caption_score and truth are set with it, and not above 0")
    if config is None:
        # A composed expression's is the composer's own.
        is_composed = is_from(table, SOURCE_COMPOSER)
        for name in CONFIDENCE:
            is_set = ~is_composed & np.isfinite(scores[name])
            yield from _rows(shard, is_set, f"{name} is null without filtering.confidence")
        return
    # What was composed afterwards was no candidate of the filter stage.
    rows = np.flatnonzero(judged(table) & np.asarray(pc.equal(table["kind"], "attribute")))
    groups = pc.list_element(table["target_mask_ids"].combine_chunks().take(rows), 0).to_pylist()
    found = {name: values[rows] for name, values in scores.items()}
    differs = np.zeros(table.num_rows, np.bool_)
    rated = Rated(groups, table["text"].combine_chunks().take(rows).to_pylist(), found)
    expected = confidences(rated, config)
    differs[rows] = ~np.isclose(found["confidence"], expected, rtol=0, atol=_TOLERANCE, equal_nan=True)
    yield from _rows(shard, differs, "confidence does not follow from the scores by filtering.confidence")
    differs[rows] = ~np.isclose(found["rank"], ranks(found["confidence"], groups), equal_nan=True)
    yield from _rows(shard, differs, "rank is not the place among the mask's by confidence")


def _rows(shard: int, is_wrong: Flags, rule: str) -> list[Problem]:
    return examples(shard, "expression_confidence", (f"row {row}: {rule}" for row in np.flatnonzero(is_wrong)))

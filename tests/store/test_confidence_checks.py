"""What `verify` holds a listener's columns to."""

import math
import re
from dataclasses import replace

import pyarrow as pa
import pytest

from schemas.confidence import Rated, confidences, ranks
from schemas.listening import ConfidenceConfig
from schemas.tables import SCHEMAS
from store.confidence_checks import confidence_problems
from store.keeping import scores_of
from store.tables import shard_tables
from tests.store.builders import make_entries, make_shard

WEIGHTS = ConfidenceConfig(bias=0.2, listener=0.5, truth=1.0, vote=0.1, consensus=0.1)
LISTENERS = (0.9, 0.4, 1.0, 0.0, 1.0, 1.0)


def heard_table(config: ConfidenceConfig | None = WEIGHTS) -> pa.Table:
    """Return expressions of two masks of an image, two each, and of a lone mask, heard and ranked."""
    shard = make_shard(make_entries(num_shards=1, per_shard=4))
    listeners = iter(LISTENERS)
    images = [
        replace(
            image,
            expressions=tuple(
                replace(each, caption_score=-2.0, listener=next(listeners), truth=-0.5) for each in image.expressions
            ),
        )
        for image in shard.images
    ]
    table = shard_tables(shard.with_images(tuple(images)), embed_images=False)["expressions"]
    if config is None:
        return table
    groups = [targets[0] for targets in table["target_mask_ids"].to_pylist()]
    confidence = confidences(Rated(groups, table["text"].to_pylist(), scores_of(table)), config)
    rows = table.to_pylist()
    for row, value, rank in zip(rows, confidence.tolist(), ranks(confidence, groups).tolist(), strict=True):
        row.update(confidence=value, rank=int(rank))
    return pa.Table.from_pylist(rows, schema=SCHEMAS["expressions"])


def problems_with(table: pa.Table, config: ConfidenceConfig | None = WEIGHTS) -> str:
    return "\n".join(f"{each.what}: {each.detail}" for each in confidence_problems(0, table, config))


def edited(row: int, **values) -> pa.Table:
    rows = heard_table().to_pylist()
    rows[row].update(values)
    return pa.Table.from_pylist(rows, schema=SCHEMAS["expressions"])


def test_what_the_filter_stage_would_have_written_is_sound():
    assert problems_with(heard_table()) == ""
    assert problems_with(heard_table(None), None) == ""
    assert [row["rank"] for row in heard_table().to_pylist()] == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"listener": 1.5}, r"row 1: listener lies in \[0, 1\]"),
        ({"truth": 0.5}, "row 1: caption_score and truth are set with it, and not above 0"),
        ({"caption_score": None}, "row 1: caption_score and truth are set with it, and not above 0"),
        ({"confidence": 0.3}, "row 1: confidence does not follow"),
        ({"confidence": None}, "row 1: confidence does not follow"),
        ({"listener": 0.5}, "row 1: confidence does not follow"),
        ({"rank": 1}, "row 1: rank is not the place"),
        ({"rank": None}, "row 1: rank is not the place"),
    ],
)
def test_what_does_not_follow_is_found(values, expected):
    assert re.search(f"expression_confidence: {expected}", problems_with(edited(1, **values)))


def test_without_weights_there_is_no_confidence():
    assert "row 0: confidence is null without filtering.confidence" in problems_with(heard_table(), None)


def test_what_a_human_wrote_has_none_and_is_not_ranked():
    human = {"source": "human", "listener": None, "truth": None, "caption_score": None}
    table = edited(0, **human, confidence=None, rank=None)
    found = problems_with(table)
    # The other candidate of its mask is the first now, and the only one that votes.
    assert "row 1: rank is not the place among the mask's by confidence" in found
    assert "row 0" not in found
    assert math.isnan(scores_of(table)["confidence"][0])

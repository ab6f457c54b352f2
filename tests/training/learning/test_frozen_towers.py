"""What is kept as long as there is room for it."""

import pytest

from pseudoris.training.learning.frozen_towers import FeatureCache


@pytest.mark.parametrize(
    ("max_bytes", "steps", "due"),
    [
        # What was not asked for the longest goes first: `a` is asked for in between.
        (6, ["a=12", "b=34", "c=56", "a", "d=78"], {"a": "12", "b": None, "c": "56", "d": "78"}),
        # A value in the place of another counts alone.
        (6, ["a=1234", "a=12", "a=123456"], {"a": "123456"}),
        # What there is never room for is not kept, and leaves none to others.
        (3, ["a=12", "b=1234"], {"a": None, "b": None}),
    ],
)
def test_as_much_is_kept_as_there_is_room_for(max_bytes, steps, due) -> None:
    kept = FeatureCache[str](max_bytes, len)
    for step in steps:
        key, is_put, value = step.partition("=")
        kept.put(key, value) if is_put else kept.get(key)
    assert {key: kept.get(key) for key in due} == due

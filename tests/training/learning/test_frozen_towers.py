"""What is kept as long as there is room for it."""

from pseudoris.training.learning.frozen_towers import FeatureCache


def _kept(max_bytes: int) -> FeatureCache[str]:
    return FeatureCache(max_bytes, len)


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    kept = _kept(6)
    kept.put("a", "12")
    kept.put("b", "34")
    kept.put("c", "56")

    assert kept.get("a") == "12"
    kept.put("d", "78")

    assert [kept.get(text) for text in "abcd"] == ["12", None, "56", "78"]


def test_a_value_in_the_place_of_another_counts_alone() -> None:
    kept = _kept(6)
    for value in ("1234", "12", "123456"):
        kept.put("a", value)

    assert kept.get("a") == "123456"


def test_what_there_is_never_room_for_is_not_kept() -> None:
    kept = _kept(3)
    kept.put("a", "12")
    kept.put("b", "1234")

    assert (kept.get("a"), kept.get("b")) == (None, None)

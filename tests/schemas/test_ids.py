"""Ids are golden: a changed one would orphan every table ever written."""

from pseudoris.schemas import ids


def test_ids_and_names_are_what_they_were():
    assert ids.image_id("a/b.jpg") == "4a51636246e7c418"  # printf a/b.jpg | sha256sum
    assert ids.mask_id("aa32c4d72b19f02a", 7) == "aa32c4d72b19f02a-0007"
    assert ids.part_name(42, 1, "9f3a1c07" + "0" * 56) == "shard-00000042.g1-9f3a1c07.parquet"

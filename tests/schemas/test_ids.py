"""Ids are golden: a changed one would orphan every table ever written."""

from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas import ids


def test_image_id_is_the_first_64_bits_of_the_keys_sha256():
    assert ids.image_id("a/b.jpg") == "4a51636246e7c418"  # printf a/b.jpg | sha256sum


def test_mask_id_sorts_in_the_proposers_order():
    assert ids.mask_id("aa32c4d72b19f02a", 7) == "aa32c4d72b19f02a-0007"


def test_part_name_holds_shard_generation_and_content():
    assert ids.part_name(42, 1, "9f3a1c07" + "0" * 56) == "shard-00000042.g1-9f3a1c07.parquet"


@given(st.text(), st.text())
def test_image_ids_differ_where_keys_differ(one, other):
    assert (ids.image_id(one) == ids.image_id(other)) == (one == other)

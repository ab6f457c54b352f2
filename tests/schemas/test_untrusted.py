"""JSON of others: what nests too deeply or counts too far is damage."""

from __future__ import annotations

import pytest

from pseudoris.schemas.untrusted import parse_json


@pytest.mark.parametrize("value", [0, -(2**64) + 1, 2**64 - 1], ids=repr)
def test_whole_numbers_of_64_bits_are_read(value):
    assert parse_json(f'{{"id": {value}, "float": 0.1234567890123456789012}}')["id"] == value


@pytest.mark.parametrize("digits", [str(2**64), str(-(2**64)), "9" * 5000, str(40 * (2**61 - 1))])
@pytest.mark.parametrize("encode", [str, str.encode])
def test_larger_numbers_of_which_any_many_can_have_one_hash_are_refused(digits, encode):
    with pytest.raises(ValueError, match=r"more than 64 bits|Exceeds the limit"):
        parse_json(encode(f'{{"id": {digits}}}'))


def test_large_whole_numbers_of_a_json_are_floats_where_they_are_taken():
    assert parse_json(f'{{"a": 1{"0" * 30}, "b": {2**60}}}', takes_large=True) == {"a": 1e30, "b": 2**60}

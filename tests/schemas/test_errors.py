"""Errors that cross process borders."""

import pickle

import pytest

from pseudoris.schemas.errors import ConfigError, ImageError, MissingPartsError, gather


def test_an_image_error_survives_pickling_with_its_reason():
    error = pickle.loads(pickle.dumps(ImageError("corrupt", "the data ends early")))
    assert (error.reason, error.message, str(error)) == ("corrupt", "the data ends early", "the data ends early")


def refuse(*parts):
    def read():
        raise ConfigError(*parts) if len(parts) == 1 else MissingPartsError(*parts)

    return read


def test_one_missing_part_is_told_as_it_is():
    with pytest.raises(ConfigError, match=r"^no prior$"):
        gather(lambda: 1, refuse("no prior"), lambda: 2)
    with pytest.raises(ConfigError, match=r"^no prior$"):
        gather(refuse("no prior"), refuse("no prior"))


def test_missing_parts_are_told_all_at_once_each_of_them_once():
    with pytest.raises(ConfigError, match="3 parts that this run needs are not ready") as told:
        gather(refuse("no prior"), lambda: 1, refuse("no weights", "no parser"), refuse("no prior"))
    assert str(told.value) == (
        "3 parts that this run needs are not ready:\n  1. no prior\n  2. no weights\n  3. no parser"
    )
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)

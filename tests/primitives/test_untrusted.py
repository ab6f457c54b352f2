"""Text of others is read within bounds: YAML wherever a user's is read, and JSON."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import yaml

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import parse_json
from pseudoris.primitives.yaml_text import MAX_LEVELS, MAX_VALUES, parse_yaml
from pseudoris.schemas.config_layers import load_config
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config

DEEP = "[" * 20_000 + "]" * 20_000


def bomb():
    """Return nine lists, each of nine times the one before: 9 to the 8 values in half a kilobyte."""
    lines = [f"a: &a [{', '.join('x' * 9)}]"]
    lines += [f"{one}: &{one} [{', '.join([f'*{before}'] * 9)}]" for before, one in pairwise("abcdefgh")]
    return "\n".join(lines)


FLOW_BOMB = "{" + bomb().replace("\n", ", ") + "}"
READERS = {
    "--config": lambda text, path: (path.write_text(text), load_config("tiny", path)),
    "--set": lambda text, path: load_config("tiny", None, [f"filtering.keep={text}"]),
    "options of a plug-in": lambda text, path: load_config("tiny", None, [f"masks.options={text}"]),
    "--set of a recipe": lambda text, path: load_recipe_config("tiny", None, [f"pairs.merge_iou={text}"]),
    "--config of a recipe": lambda text, path: (path.write_text(text), load_recipe_config("tiny", path)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, f"nested more than {MAX_LEVELS} levels deep in line 1: remove the extra brackets"),
        (FLOW_BOMB, f"more than {MAX_VALUES:,} values, aliases .* written out: give fewer, or remove aliases"),
        ("{a: &a [*a]}", r"the alias \*a stands for itself: write the value out"),
        ("2020-13-45", "month must be in 1..12; quote a value that is text"),
        ("1" * 5_000, "has more than 64 bits; quote a value that is text"),
        ("1" + ":1" * 10**4, "is in base 60: write it out, or quote a value that is text"),
    ],
    ids=["deep", "aliases", "itself", "date", "digits", "base 60"],
)
def test_yaml_beyond_bounds_is_refused_within_a_second_with_the_place_and_the_remedy(tmp_path, reader, text, message):
    path = tmp_path / "bomb.yaml"
    began_s = time.process_time()
    with pytest.raises(ConfigError, match=f"(?s)(bomb.yaml|--set [a-z_.]+).*{message}") as caught:
        READERS[reader](text, path)
    assert time.process_time() - began_s < 1
    assert len(str(caught.value)) < 600


def test_a_bomb_in_a_block_is_refused_as_well():
    with pytest.raises(yaml.YAMLError, match="more than 50,000 values"):
        parse_yaml(bomb())
    with pytest.raises(yaml.YAMLError, match=r"levels deep in line 6[45]"):
        parse_yaml("\n".join("  " * level + "a:" for level in range(100)))
    with pytest.raises(yaml.YAMLError, match="more than 4,194,304 letters"):
        parse_yaml("#" * 2**23)


def test_an_alias_counts_as_all_that_it_stands_for():
    lists = f"[&a [{', '.join('x' * 1_000)}], "
    assert len(parse_yaml(f"{lists}{', '.join(['*a'] * 48)}]")) == 49
    with pytest.raises(yaml.YAMLError, match="more than 50,000 values"):
        parse_yaml(f"{lists}{', '.join(['*a'] * 49)}]")


def test_a_key_of_many_names_is_refused():
    with pytest.raises(ConfigError, match="a key has at most 64 names"):
        load_config("tiny", None, [".".join("a" * 2_000) + "=1"])


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

"""Old words of the configuration: refused from a user with the new word, read from a header, and digested as before."""

from __future__ import annotations

import json

import pytest
import yaml

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config, preset_names
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.renames import RENAMES, Rename, in_first_words, in_present_words

# Each key with a value of it, and what the refusal names.
OLD_KEYS = [pytest.param(each, 3, rf"{each.old_key} is now called {each.new_key}", id=each.old_key) for each in RENAMES]
OLD_VALUES = [
    pytest.param(each, old, rf"{each.old_key} is now called {each.new_key}, and its value {old} is now {new}", id=old)
    for each in RENAMES
    for old, new in each.values.items()
]
OLD_VALUES_OF_NEW_KEYS = [
    pytest.param(Rename(each.section, each.new, each.new), old, f"the value {old} is now called {new}", id=f"new-{old}")
    for each in RENAMES
    for old, new in each.values.items()
]


@pytest.mark.parametrize("way", ["yaml", "assignment"])
@pytest.mark.parametrize(("rename", "value", "message"), OLD_KEYS + OLD_VALUES + OLD_VALUES_OF_NEW_KEYS)
def test_an_old_word_of_a_user_is_refused_with_the_new_one(rename, value, message, way, tmp_path):
    path = tmp_path / "run.yaml"
    tree = {rename.old: value}
    for name in reversed(rename.section.split(".")):
        tree = {name: tree}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    given = (path, ()) if way == "yaml" else (None, (f"{rename.old_key}={value}",))
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", *given)


def test_the_present_words_are_accepted():
    words = ("captions.listening={max_others: 3}", "captions.sampling.above_max_others=no_contrast")
    config = load_config("tiny", None, (*words, "captions.sampling.max_others=4", "filtering.min_cosine=0.5"))
    assert (config.captions.sampling.max_others, config.filtering.min_cosine) == (4, 0.5)


@pytest.mark.parametrize("preset", preset_names())
def test_first_words_lead_back_to_the_present_ones(preset):
    config = load_config(preset, assignments=["captions.listening={}"])
    present = config.model_dump(mode="json")
    first = in_first_words(present)
    assert all(f'"{each.old}"' in json.dumps(first) for each in RENAMES)
    assert in_present_words(first) == present == in_present_words(present)
    assert RunConfig.model_validate(in_present_words(first)) == config


def test_a_section_with_both_words_of_a_key_stays_as_it_is():
    both = {"filtering": {"min_score": 0.1, "min_cosine": 0.2}}
    assert in_present_words(both) == both

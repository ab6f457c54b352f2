"""A preset's domain: what is said of a sample, and that it is no part of a run's identity."""

import json

import pytest

from pseudoris.schemas.config_layers import config_hash, load_config, validate
from pseudoris.schemas.domain import DomainRecord
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation
from tests.store.builders import start_run


def record(num_outside, **changes):
    return DomainRecord(num_sampled=16, num_outside=num_outside, max_score=2.5, median_score=5.61, **changes)


@pytest.mark.parametrize(("num_outside", "is_mostly"), [(0, False), (8, False), (9, True), (16, True)])
def test_most_of_a_sample_is_more_than_half(num_outside, is_mostly):
    assert record(num_outside).is_mostly_outside == is_mostly


def test_the_warning_says_how_many_of_how_many_and_how_far():
    assert record(0).warning is None
    assert record(2).warning.startswith("Some of these images are not for the preset: 2 of 16 sampled images")
    text = record(16, is_accepted=True).warning
    for words in ("Do not trust", "16 of 16 sampled images", "above 2.5", "median is 5.61", "--accept-domain"):
        assert words in text


def test_it_is_no_part_of_the_identity():
    config = load_config("tiny")
    without = load_config("tiny", None, ["domain=null"])
    assert config.method() == without.method() == load_config("tiny", None, ["placement.accept_domain=true"]).method()
    assert "domain" not in config.method()
    assert config_hash(config) == config_hash(without)


def test_a_config_of_before_has_the_hash_that_it_had():
    older = load_config("tiny", None, ["domain=null"]).model_dump(mode="json")
    assert "domain" not in older
    assert "accept_domain" not in older["placement"]
    assert config_hash(validate(older)) == config_hash(load_config("tiny", None, ["domain=null"]))


def test_a_header_holds_it_only_if_the_sample_was_asked(tmp_path):
    older = start_run(RunLocation.open(str(tmp_path / "older")))
    newer = start_run(RunLocation.open(str(tmp_path / "newer")), domain=record(3))
    assert "domain" not in json.loads(older.model_dump_json())
    assert RunHeader.model_validate_json(older.model_dump_json()).domain is None
    assert RunHeader.model_validate_json(newer.model_dump_json()).domain == record(3)


@pytest.mark.parametrize("preset", ["base", "paper"])
def test_presets_without_a_score_have_no_such_key(preset):
    assert "domain" not in load_config(preset).model_dump(mode="json")

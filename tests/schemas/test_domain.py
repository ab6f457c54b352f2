"""A preset's domain: what is said of a sample, and that it is no part of a run's identity."""

import pytest

from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.run_records import DomainRecord


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

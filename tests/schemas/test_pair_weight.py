"""The weight of an expression by its confidence, and where nothing gives one."""

import math

import numpy as np
import pytest

from pseudoris.schemas.confidence import WeightLine, line_weights
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.errors import ConfigError

CONFIDENCE = "filtering.confidence={log_uniqueness: 1.0}"


def test_the_weight_is_a_line_in_the_log_odds():
    line = WeightLine(bias=0.5, slope=2.0)
    due = 1 / (1 + math.exp(-(0.5 + 2 * math.log(0.8 / 0.2))))
    assert line_weights(line, np.array([0.8])) == pytest.approx([due], abs=1e-6)
    assert line_weights(WeightLine(), np.array([0.0, 0.25, 1.0])).tolist() == [0.0, 0.25, 1.0]


def test_without_a_confidence_or_a_line_the_weight_is_one():
    assert line_weights(WeightLine(bias=-3.0), np.array([np.nan, 0.5])).tolist() == [1.0, 0.047426]
    assert line_weights(None, np.array([0.1, np.nan])).tolist() == [1.0, 1.0]


def test_it_is_part_of_the_method():
    plain, weighed = (load_config("tiny", None, words) for words in ([CONFIDENCE], [CONFIDENCE, _pair("drawn")]))
    assert plain.method()["filtering"]["pair_weight"] is None
    assert weighed.method()["filtering"]["pair_weight"]["drawn"] == {"bias": 1.0, "slope": 0.5}
    assert config_hash(plain) != config_hash(weighed)
    assert type(plain).model_validate(weighed.model_dump(mode="json")) == weighed


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("drawn", "pair_weight.drawn needs filtering.confidence"),
        ("composed", "filtering.pair_weight.composed weighs what is composed"),
    ],
)
def test_a_line_without_its_confidence_is_refused(kind, message):
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", None, [_pair(kind)])


def test_less_confidence_never_means_more_weight():
    with pytest.raises(ConfigError, match=r"slope: .*greater than or equal to 0 \(got -1\)"):
        load_config("tiny", None, [CONFIDENCE, "filtering.pair_weight={drawn: {slope: -1}}"])


def _pair(kind: str) -> str:
    return f"filtering.pair_weight={{{kind}: {{bias: 1.0, slope: 0.5}}}}"

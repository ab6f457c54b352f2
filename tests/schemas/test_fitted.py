"""Values of a fitted file: read once, checked, part of the method; and the weight that a line gives."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.fitted import FittedConfig, WeightLine, line_weights
from pseudoris.schemas.stage_settings import ComposingConfig
from tests.builders.fitted import POSTERIOR, fitted, fitted_file

CONFIDENCE = {"log_uniqueness": 1.0}
DRAWN = {"drawn": {"bias": 1.0, "slope": 0.5}}


def test_the_weight_is_a_line_in_the_log_odds():
    line = WeightLine(bias=0.5, slope=2.0)
    due = 1 / (1 + math.exp(-(0.5 + 2 * math.log(0.8 / 0.2))))
    assert line_weights(line, np.array([0.8])) == pytest.approx([due], abs=1e-6)
    assert line_weights(WeightLine(), np.array([0.0, 0.25, 1.0])).tolist() == [0.0, 0.25, 1.0]


def test_without_a_confidence_or_a_line_the_weight_is_one():
    assert line_weights(WeightLine(bias=-3.0), np.array([np.nan, 0.5])).tolist() == [1.0, 0.047426]
    assert line_weights(None, np.array([0.1, np.nan])).tolist() == [1.0, 1.0]


def test_values_are_part_of_the_method_and_are_not_read_again():
    plain, weighed = (
        load_config("tiny", None, [fitted(confidence=CONFIDENCE, **lines)]) for lines in ({}, {"pair_weight": DRAWN})
    )
    assert plain.filtering.pair_weight is None
    assert weighed.method()["filtering"]["fitted"]["values"]["pair_weight"]["drawn"] == DRAWN["drawn"]
    assert config_hash(plain) != config_hash(weighed)
    fitted_file(confidence=CONFIDENCE, pair_weight=DRAWN).unlink()
    assert type(plain).model_validate_json(weighed.model_dump_json()) == weighed


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (fitted(pair_weight=DRAWN), "pair_weight.drawn needs the weights of confidence"),
        (
            fitted(confidence=CONFIDENCE, pair_weight={"drawn": {"slope": -1}}),
            r"slope: .*greater than or equal to 0 \(got -1\)",
        ),
        (fitted(confidence={"bais": 1.0}), r"filtering.fitted.values.confidence.bais: unknown key"),
        (fitted(filtering={"confidence": {}}), r"filtering.fitted.values.filtering: unknown key"),
        (fitted(posterior={"counts": "draws"}), "filtering.fitted.values.posterior.noun_share: missing"),
        (fitted(models={"caption": "0"}), "filtering.fitted.values.models.caption: String should match"),
        ("filtering.fitted={uri: none.yaml}", r"uri 'none.yaml' cannot be read \(No such file"),
        ("filtering.fitted={uri: 'builtin:none.yaml'}", r"uri 'builtin:none.yaml' cannot be read"),
        ("filtering.fitted={uri: x, values: {}}", "filtering.fitted.sha256: missing"),
        (f"filtering.fitted.sha256={'0' * 64}", f"has the sha256 .*, expected {'0' * 64}: restore the file"),
        ("filtering.pair_weight={drawn: {}}", r"filtering.pair_weight: unknown key; did you mean filtering.fitted\?"),
    ],
)
def test_what_cannot_be_is_refused(word, message):
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", None, [word])


def test_a_strangers_header_opens_no_file():
    with pytest.raises(ValidationError, match="values"):
        FittedConfig.model_validate({"uri": str(fitted_file(confidence=CONFIDENCE)), "sha256": "0" * 64})


def test_a_file_that_is_not_yaml_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff{")
    with pytest.raises(ConfigError, match="is not YAML: `pseudoris calibrate --to` writes such a file"):
        load_config("tiny", None, [f"filtering.fitted.uri={tmp_path / 'x.yaml'}"])


def test_composing_needs_a_posterior_and_one_of_probabilities_a_listener():
    assert load_config("tiny", None, ["composing={}"]).filtering.posterior.counts == "draws"
    for preset, words in (("base", ()), ("tiny", ("filtering.fitted=null",))):
        with pytest.raises(ConfigError, match=r"composing needs a posterior .* by filtering\.fitted\.uri"):
            load_config(preset, None, ["composing={}", *words])
    counting = ["composing={}", fitted(posterior={**POSTERIOR.model_dump(), "counts": "probability"})]
    with pytest.raises(ConfigError, match=r"counts probabilities needs a listener, but captions\.listening"):
        load_config("tiny", None, counting)
    assert load_config("tiny", None, [*counting, "captions.listening={}"]).composing is not None


def test_the_same_kinds_in_another_order_or_twice_are_the_same_method():
    given = [ComposingConfig(kinds=kinds) for kinds in (("relation", "position"), ("position", "relation", "position"))]
    assert given[0] == given[1] == ComposingConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kinds": ()}, "at least 1 item"),
        ({"kinds": ("place",)}, "'attribute', 'position', 'relation', 'group' or 'none'"),
        ({"min_first": 0.95, "min_further": 0.3}, r"min_further 0\.3 is below min_first 0\.95"),
    ],
)
def test_settings_of_the_composer_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        ComposingConfig.model_validate(values)

"""Settings of the composer that contradict themselves are refused; equal ones are equal."""

import pytest
from pydantic import ValidationError

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.stage_settings import ComposingConfig, PosteriorConfig


def test_the_same_kinds_in_another_order_or_twice_are_the_same_method():
    given = [ComposingConfig(kinds=kinds) for kinds in (("relation", "position"), ("position", "relation", "position"))]
    assert given[0] == given[1] == ComposingConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kinds": ()}, "at least 1 item"),
        ({"kinds": ("place",)}, "'attribute', 'position', 'relation', 'group' or 'none'"),
        ({"posterior": {"unseen": 1.5}}, "less than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_values(values, message):
    with pytest.raises(ValidationError, match=message):
        ComposingConfig.model_validate(values)


def test_the_bound_on_further_expressions_is_not_below_that_on_the_first():
    with pytest.raises(ValidationError, match=r"min_further 0\.3 is below min_first 0\.95"):
        PosteriorConfig(min_first=0.95, min_further=0.3)


def test_a_posterior_that_reads_a_listener_needs_one():
    counting = "composing={posterior: {counts: probability}}"
    with pytest.raises(ConfigError, match=r"counts=probability needs a listener's scores, but captions\.listening"):
        load_config("tiny", None, [counting])
    assert load_config("tiny", None, [counting, "captions.listening={}"]).composing.posterior.counts == "probability"
    assert load_config("tiny", None, ["composing={posterior: {}}"]).composing.posterior.counts == "draws"

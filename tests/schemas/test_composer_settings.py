"""Settings of the composer that contradict themselves are refused; equal ones are equal."""

import pytest
from pydantic import ValidationError

from pseudoris.schemas.composer_settings import ComposingConfig, PosteriorConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError


def test_the_same_kinds_in_another_order_or_twice_are_the_same_method():
    given = [ComposingConfig(kinds=kinds) for kinds in (("relation", "position"), ("position", "relation", "position"))]
    assert given[0] == given[1] == ComposingConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_noun": 0.3, "max_noun": 0.3}, r"max_noun 0\.3 is not below min_noun 0\.3"),
        ({"max_word": 0.5}, r"max_word 0\.5 is not below min_word 0\.35"),
        ({"kinds": ()}, "at least 1 item"),
        ({"kinds": ("place",)}, "'attribute', 'position', 'relation', 'group' or 'none'"),
        ({"min_gap": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_values(values, message):
    with pytest.raises(ValidationError, match=message):
        ComposingConfig.model_validate(values)


def test_bounds_on_shares_and_a_posterior_are_not_set_together():
    with pytest.raises(ValidationError, match=r"composing\.min_noun bounds a share, and composing\.posterior decides"):
        ComposingConfig(min_noun=0.7, posterior=PosteriorConfig())
    # A header holds every setting, those on shares at their defaults.
    config = ComposingConfig(posterior=PosteriorConfig(min_first=0.7))
    assert ComposingConfig.model_validate(config.model_dump(mode="json")) == config


def test_what_only_a_posterior_composes_needs_one_and_its_bounds_are_in_order():
    with pytest.raises(ValidationError, match=r"kinds has attribute, which needs composing\.posterior"):
        ComposingConfig(kinds=("attribute", "position"))
    with pytest.raises(ValidationError, match=r"min_further 0\.3 is below min_first 0\.95"):
        PosteriorConfig(min_first=0.95, min_further=0.3)


def test_a_posterior_that_reads_a_listener_needs_one():
    counting = "composing={posterior: {counts: probability}}"
    with pytest.raises(ConfigError, match=r"counts=probability needs a listener's scores, but captions\.listening"):
        load_config("tiny", None, [counting])
    assert load_config("tiny", None, [counting, "captions.listening={}"]).composing.posterior.counts == "probability"
    assert load_config("tiny", None, ["composing={posterior: {}}"]).composing.posterior.counts == "draws"


def test_a_run_without_a_posterior_has_the_identity_of_before():
    assert "posterior" not in load_config("tiny", None, ["composing={}"]).method()["composing"]
    assert "posterior" in load_config("tiny", None, ["composing={posterior: {}}"]).method()["composing"]


def test_a_run_that_composes_nothing_has_the_identity_of_before():
    assert "composing" not in load_config("tiny").method()
    assert load_config("tiny", None, ["composing={}"]).method()["composing"]["kinds"] == ["position", "relation"]

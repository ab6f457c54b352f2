"""The page's configurations are ones that load, and differ from the preset in nothing but what they say."""

from pathlib import Path

import pytest

from experiments.quality.parts import RECORDS, read_record, record_path
from pseudoris.schemas.config_layers import load_config
from pseudoris.training.calibration.confidence_fit import Bounds

ROOT = Path(__file__).parents[2]
EXAMPLES, DOCS = ROOT / "examples", ROOT / "docs"


@pytest.mark.parametrize(
    ("name", "listens", "composes"),
    [
        ("listener.yaml", True, False),
        ("listener-composer.yaml", True, True),
        ("vote.yaml", False, False),
    ],
)
def test_the_configurations_load_over_the_preset(name, listens, composes):
    config = load_config("tiny", EXAMPLES / name)
    assert (config.captions.listening is not None) == listens
    assert config.filtering.fitted_values.confidence is not None
    assert config.filtering.fitted_values.confidence.needs_listener == listens
    assert config.filtering.keep[0].column == "confidence"
    assert (config.composing is not None) == composes
    plain, tree = load_config("tiny").method(), config.method()
    for each in (plain, tree):
        del each["captions"]["listening"], each["composing"]
        for key in ("tau", "fitted", "keep"):
            del each["filtering"][key]
    assert tree == plain


def test_the_best_preset_is_the_example_with_weights_of_its_own_and_more_to_say():
    example = load_config("tiny", EXAMPLES / "listener-composer.yaml").method()
    preset = load_config("tiny-composed").method()
    differing = {
        f"{section}.{name}"
        for section, settings in preset.items()
        if isinstance(settings, dict)
        for name, value in settings.items()
        if value != example[section].get(name)
    }
    assert differing == {
        "captions.weights",
        "filtering.fitted",
        "composing.max_per_mask",
        "composing.max_per_form",
        "composing.min_first",
        "composing.kinds",
        "composing.bank",
    }
    assert {name for name, value in preset.items() if not isinstance(value, dict) and value != example[name]} == set()


def test_both_listeners_have_the_weights_and_bounds_that_the_record_has():
    record = read_record(record_path(RECORDS, "listening")).result
    posterior = load_config("tiny", EXAMPLES / "listener-composer.yaml").filtering.fitted_values.posterior
    fitted = record["composer_weights"][-1]
    assert fitted["scenes"] == record["scenes"]["development"]
    assert {name: getattr(posterior, name) for name in fitted["weights"]} == fitted["weights"]
    for name, rule, coverage in (("listener", "all", 0.65), ("listener-composer", "all+weighing composer", 0.8)):
        config = load_config("tiny", EXAMPLES / f"{name}.yaml").filtering
        # The record is older than the key: of its 700 scenes none has a mask that is alone (counted with `tiny`).
        expected = {**record["weights"]["all"], "lone_log_ratio": 0.0}
        assert config.fitted_values.confidence.model_dump(exclude_defaults=True) == expected
        (bounds,) = (aim["bounds"][rule] for aim in record["aims"] if aim["coverage"] == coverage)
        assert [str(each) for each in config.keep] == Bounds(bounds["min_confidence"], bounds["max_rank"]).conditions()

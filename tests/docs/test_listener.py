"""The page's configurations are ones that load, and differ from the preset in nothing but what they say."""

from pathlib import Path

import pytest

from schemas.config_loading import load_config

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("name", "listens"), [("listener.yaml", True), ("vote.yaml", False)])
def test_the_configurations_load_over_the_preset(name, listens):
    config = load_config("tiny", DOCS / name)
    assert (config.captions.listening is not None) == listens
    assert config.filtering.confidence is not None
    assert config.filtering.confidence.needs_listener == listens
    assert [condition.column for condition in config.filtering.keep] == ["confidence", "rank"]
    plain, tree = load_config("tiny").method(), config.method()
    tree["captions"].pop("listening", None)
    for key in ("tau", "confidence", "keep"):
        tree["filtering"].pop(key)
        plain["filtering"].pop(key, None)
    assert tree == plain

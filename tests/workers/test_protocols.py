"""Engines are found by entry point: ours, and a plug-in that this repository does not know."""

import pytest

from schemas.config_loading import load_config
from schemas.errors import ConfigError
from workers import protocols
from workers.captions import CocaCaptioner
from workers.filtering import ClipScorer
from workers.masks import SamProposer

FINDERS = [
    (protocols.find_proposer, "masks", SamProposer),
    (protocols.find_captioner, "captions", CocaCaptioner),
    (protocols.find_scorer, "filtering", ClipScorer),
]


@pytest.mark.parametrize(("find", "section", "expected"), FINDERS)
def test_the_presets_engines_are_found_by_their_entry_points(find, section, expected):
    assert find(getattr(load_config("paper"), section)) is expected


@pytest.mark.usefixtures("stub_engines")
@pytest.mark.parametrize(("find", "section", "_expected"), FINDERS)
def test_a_plug_in_package_is_found_without_a_change_here(find, section, _expected):
    config = load_config("tiny", assignments=[f"{section}.engine=stub"])
    assert find(getattr(config, section)).__module__ == "stub_engines"


@pytest.mark.parametrize(("find", "section", "_expected"), FINDERS)
def test_an_unknown_engine_is_refused_with_the_known_ones(find, section, _expected):
    config = load_config("tiny", assignments=[f"{section}.engine=blip"])
    with pytest.raises(ConfigError, match=rf"{section}.engine='blip'.*known: "):
        find(getattr(config, section))

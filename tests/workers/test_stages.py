"""Engines are found by entry point: ours, and a plug-in that this repository does not know."""

from importlib.metadata import EntryPoint

import pytest

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers import stages
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.masks import SamProposer

FINDERS = [
    (stages.find_proposer, "masks", SamProposer),
    (stages.find_captioner, "captions", CocaCaptioner),
    (stages.find_scorer, "filtering", ClipScorer),
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


@pytest.mark.parametrize(
    ("line", "new_name"),
    [
        ("import schemas.gone", "pseudoris.schemas"),
        ("import pipeline.gone", "pseudoris.pipeline"),
    ],
)
def test_a_plug_in_that_imports_an_old_name_is_told_the_new_one(line, new_name, tmp_path, monkeypatch):
    (tmp_path / "old_plug_in.py").write_text(f"{line}\nclass Engine: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("old", "old_plug_in:Engine", "pseudoris.proposers")
    monkeypatch.setattr(stages, "entry_points", lambda group: [entry])
    config = load_config("tiny", assignments=["masks.engine=old"])
    with pytest.raises(ConfigError, match=rf"masks.engine='old': old_plug_in:Engine cannot be imported: .*{new_name}"):
        stages.find_proposer(config.masks)

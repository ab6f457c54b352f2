"""Engines are found by entry point: ours, and a plug-in that this repository does not know."""

from importlib.metadata import EntryPoint

import pytest

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers import stages
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.masks import SamProposer

EACH = pytest.mark.parametrize("stage", stages.STAGES, ids=lambda stage: stage.name)


def test_the_presets_engines_are_found_by_their_entry_points():
    found = [stage.engine(load_config("paper")) for stage in stages.STAGES]
    assert found == [SamProposer, CocaCaptioner, ClipScorer]


@pytest.mark.usefixtures("stub_engines")
@EACH
def test_a_plug_in_package_is_found_without_a_change_here(stage):
    config = load_config("tiny", assignments=[f"{stage.section}.engine=stub"])
    assert stage.engine(config).__module__ == "stub_engines"


@EACH
def test_an_unknown_engine_is_refused_with_the_known_ones(stage):
    config = load_config("tiny", assignments=[f"{stage.section}.engine=blip"])
    with pytest.raises(ConfigError, match=rf"{stage.section}.engine='blip'.*known: "):
        stage.engine(config)


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
        stages.STAGES[0].engine(config)

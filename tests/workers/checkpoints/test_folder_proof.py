"""A model folder of a stranger is opened in a child first, with bounds, or refused in one sentence."""

from __future__ import annotations

import json
import shutil

import pytest

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.checkpoints.folder_proof import prove_folder
from pseudoris.workers.stages import STAGES
from tests.builders.vlms import save_vlm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_vlm(tmp_path_factory.mktemp("models") / "llava")


def proved(folder) -> None:
    options = "captions.options={prompt: say, crop_size: 28}"
    words = [
        *("captions.engine=vlm", "captions.architecture=null", f"captions.weights.uri={folder}", options),
        *("captions.beam.num_beams=0", "captions.max_length=8", "captions.min_length=3"),
        "captions.sampling={top_k: [3], top_p: [0.5], max_others: 6}",
    ]
    prove_folder(STAGES[1], load_config("tiny", assignments=words))


def change(path, edit) -> None:
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def template(text):
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def config(edit):
    return lambda folder: change(folder / "config.json", edit)


def tokenizer(edit):
    return lambda folder: change(folder / "tokenizer.json", edit)


HARMS = {
    "a template of gigabytes": (template("{{'a'*9**11}}"), r"takes more than [\d,]+ bytes of memory|ended with status"),
    "a template that is none": (template("{% if %}"), r"cannot open it \(TemplateSyntaxError|cannot make a prompt"),
    "millions of layers": (
        config(lambda tree: tree["text_config"].update(num_hidden_layers=10**7)),
        r"takes more than (30 s|[\d,]+ bytes)|cannot open it",
    ),
    "a tokenizer that is none": (tokenizer(lambda tree: tree.update(model={"type": "BPE"})), "cannot open it"),
}


@pytest.mark.long
def test_a_sound_folder_passes(saved):
    proved(saved)


# That one takes half a minute of a processor, which is the bound.
@pytest.mark.parametrize(
    "harm", [pytest.param(each, marks=[pytest.mark.long] * (each != "a template of gigabytes")) for each in HARMS]
)
def test_a_folder_that_would_take_memory_or_time_or_cannot_be_opened_is_refused(saved, tmp_path, harm):
    folder = shutil.copytree(saved, tmp_path / "model")
    done, told = HARMS[harm]
    done(folder)
    with pytest.raises(ConfigError, match=rf"model.*({told})"):
        proved(folder)

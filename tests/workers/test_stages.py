"""Engines are found by entry point: ours, and a plug-in that this repository does not know."""

import hashlib
import json
from functools import partial
from importlib.metadata import EntryPoint

import pytest

from pseudoris.primitives.errors import ConfigError, gather
from pseudoris.schemas.config import PriorConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers import stages
from pseudoris.workers.checkpoints.model_configs import read_model_config
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.stages import prior_digest
from tests.builders.command import python_says


@pytest.mark.usefixtures("stub_engines")
def test_an_option_that_a_plug_in_does_not_list_is_refused_with_those_that_it_does():
    set_ = ["captions.engine=stub", "captions.options={blank_on: a.jpg, blnk_on: b.jpg}"]
    with pytest.raises(ConfigError, match=r"has blnk_on, but captions\.engine=stub takes blank_on, ends_with: "):
        stages.STAGES[1].weights_digest(load_config("tiny", assignments=set_))


@pytest.mark.parametrize("stage", stages.STAGES, ids=lambda stage: stage.name)
def test_an_unknown_engine_is_refused_with_the_known_ones(stage):
    config = load_config("tiny", assignments=[f"{stage.section}.engine=blip"])
    with pytest.raises(ConfigError, match=rf"{stage.section}.engine='blip'.*known: "):
        stage.engine(config)


@pytest.mark.parametrize(
    ("line", "new_name"), [("import schemas.gone", "pseudoris.schemas"), ("import pipeline.gone", "pseudoris.pipeline")]
)
def test_a_plug_in_that_imports_an_old_name_is_told_the_new_one(line, new_name, tmp_path, monkeypatch):
    (tmp_path / "old_plug_in.py").write_text(f"{line}\nclass Engine: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("old", "old_plug_in:Engine", "pseudoris.proposers")
    monkeypatch.setattr(stages, "entry_points", lambda group: [entry])
    config = load_config("tiny", assignments=["masks.engine=old"])
    with pytest.raises(ConfigError, match=rf"masks.engine='old': old_plug_in:Engine cannot be imported: .*{new_name}"):
        stages.STAGES[0].engine(config)


def test_the_digests_of_tiny_take_neither_torch_nor_open_clip():
    code = """if True:
    import sys
    from pseudoris.schemas.config_layers import load_config
    from pseudoris.workers.stages import STAGES
    config = load_config("tiny")
    print([len(stage.weights_digest(config)) for stage in STAGES])
    print([name for name in ("torch", "open_clip", "torchvision", "ray") if name in sys.modules])"""
    assert python_says(code).splitlines() == ["[64, 64, 64]", "[]"]


def test_the_digest_of_a_prior_is_that_of_its_file(tmp_path):
    path = tmp_path / "t.json"
    path.write_bytes(b"{}")
    assert prior_digest(PriorConfig(kind="table", path=str(path))) == hashlib.sha256(b"{}").hexdigest()
    assert prior_digest(PriorConfig()) is None
    with pytest.raises(ConfigError, match=r"nowhere\.json cannot be read"):
        prior_digest(PriorConfig(kind="table", path=str(tmp_path / "nowhere.json")))


SAM = sam_architecture("tiny")
COCA, CLIP = (json.dumps(read_model_config(f"builtin:tiny/{name}.json")) for name in ("coca", "clip"))


@pytest.mark.parametrize(
    ("stage", "texts"),
    [
        (0, [SAM.model_copy(update={"window_size": size}).model_dump_json() for size in (14, 7)]),
        (1, [COCA, f"{COCA} "]),
        (2, [CLIP, f"{CLIP} "]),
    ],
)
def test_an_architecture_from_a_file_counts_with_its_content(tmp_path, stage, texts):
    kind, path = stages.STAGES[stage], tmp_path / "model.json"
    of_file = load_config("tiny", None, [f"{kind.section}.architecture={path}"])
    digests = {kind.weights_digest(load_config("tiny"))}
    for text in texts:
        path.write_text(text)
        digests.add(kind.weights_digest(of_file))
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (f"masks.weights.uri={'x' * 5_000}", "^masks: x+ cannot be read: File name too long$"),
        (f"masks.weights.uri=random:{'9' * 5_000}", "needs a whole number, of at most 18 digits"),
        ("captions.architecture=coca_ViT-B-33", "'coca_ViT-B-33' is not in open_clip's registry: give one"),
        ("captions.architecture=model.json", r"model\.json': no such file; give the path of an open_clip model config"),
        ("captions.architecture=builtin:tiny/none.json", "no such file is shipped"),
        ("masks.architecture=vit-b", r"choose from vit_b, vit_l, vit_h, tiny, or give .*; did you mean vit_b\?"),
        ("masks.architecture=absent.json", "'absent.json' cannot be read: No such file"),
        ("captions.architecture=RN50", "'RN50' has no multimodal_cfg: a captioner must be a CoCa"),
        ("filtering.architecture=coca_ViT-L-14", "has multimodal_cfg, but a scorer must be a CLIP"),
    ],
)
def test_a_model_that_no_actor_could_build_is_refused_before_a_plan(word, message):
    config = load_config("tiny", None, [word])
    with pytest.raises(ConfigError, match=message):
        gather(*(partial(stage.weights_digest, config) for stage in stages.STAGES))


def test_a_detector_that_cannot_be_read_is_refused_before_a_plan(tmp_path):
    (tmp_path / "prior.pth").write_bytes(b"<html>")
    words = ["masks.prior.kind=torchvision", f"masks.prior.path={tmp_path}/prior.pth"]
    with pytest.raises(ConfigError, match=r"prior\.pth cannot be read as tensors: it is a web page"):
        stages.STAGES[0].weights_digest(load_config("tiny", None, words))


@pytest.mark.usefixtures("stub_engines")
def test_a_captioner_that_draws_none_of_the_whole_picture_is_told_before_a_run_is_planned():
    asks = ["captions.whole_picture=12", "captions.engine=stub"]
    told = r"captions.whole_picture=12: captions.engine=stub captions no whole images: --set captions.whole_picture=0"
    with pytest.raises(ConfigError, match=told):
        stages.STAGES[1].weights_digest(load_config("tiny", None, asks))
    assert stages.STAGES[1].weights_digest(load_config("tiny", None, asks[1:]))

"""A model folder is found whole or refused, and its models and processors are loaded as they were saved."""

import json
import os
import shutil
from importlib import metadata
from types import SimpleNamespace

import psutil
import pytest
import torch

from pseudoris.primitives.errors import ConfigError
from pseudoris.workers.checkpoints.hf_models import (
    check_fits,
    check_vocabulary,
    load_model,
    load_processor,
    model_skeleton,
)
from pseudoris.workers.checkpoints.model_folder import ModelFolder, check_installed, names_folder
from pseudoris.workers.checkpoints.weight_cache import Pin
from tests.builders.vlms import small_vlm
from tests.builders.weight_server import COMMIT

NAME = f"owner/model@{COMMIT}"


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_each_part_has_a_digest_that_only_its_own_files_change(folder):
    before = ModelFolder.open(str(folder))
    assert before.digests.keys() == {"weights", "config", "tokenizer", "chat_template", "processor"}
    assert len(before.files["weights"]) == 3
    (folder / "README.md").write_text("of no part")
    (folder / "code.py").write_text("of no part")
    assert ModelFolder.open(str(folder)).sha256 == before.sha256
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    after = ModelFolder.open(str(folder))
    assert {part for part in after.digests if after.digests[part] != before.digests[part]} == {"chat_template"}
    assert after.sha256 != before.sha256


def test_loaders_see_the_digested_files_alone(folder):
    (folder / "code.py").write_text("of no part")
    opened = ModelFolder.open(str(folder))
    with opened.view() as view:
        assert sorted(each.name for each in view.iterdir()) == sorted(
            name for names in opened.files.values() for name in names
        )
        assert (view / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_a_commit_is_found_in_the_cache_and_then_in_that_of_the_hub_s_library(saved, cache, tmp_path):
    snapshot = tmp_path / "hub" / "models--owner--model" / "snapshots" / COMMIT
    shutil.copytree(saved, snapshot)
    assert ModelFolder.open(NAME).path == snapshot
    shutil.copytree(saved, cache.path(NAME))
    assert ModelFolder.open(NAME).path == cache.path(NAME)
    assert ModelFolder.open(NAME).sha256 == ModelFolder.open(str(saved)).sha256


def test_a_file_that_is_not_the_one_downloaded_is_refused(saved, cache):
    shutil.copytree(saved, cache.path(NAME))
    cache.add_pin(f"{NAME}/config.json", Pin("0" * 64, 10))
    with pytest.raises(ConfigError, match=rf"config\.json has sha256 .* but {'0' * 64} was downloaded.*weights get"):
        _ = ModelFolder.open(NAME).sha256


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("owner/model@main", "'main' is not a commit, .*huggingface.co/owner/model/commits/main"),
        ("owner/model@c0ffee", "'c0ffee' is not a commit"),
        (NAME, f"is not on this machine. To get it: pseudoris weights get {NAME}"),
        ("owner/model", "no such folder. Give the path of a saved model, or OWNER/NAME@COMMIT"),
    ],
)
def test_a_name_that_is_no_folder_is_refused_with_the_remedy(cache, uri, message):
    with pytest.raises(ConfigError, match=message):
        ModelFolder.open(uri)


def test_a_local_folder_may_be_called_like_a_branch(folder, monkeypatch):
    (folder.parent / "models").mkdir()
    folder.rename(folder.parent / "models" / "llava@v2")
    monkeypatch.chdir(folder.parent)
    assert ModelFolder.open("models/llava@v2").config["model_type"] == "llava"


def test_files_and_hub_tags_are_no_folders(folder):
    assert names_folder(str(folder))
    assert names_folder("owner/model@main")
    for uri in ("checkpoints/sam.pth", "builtin:tiny/sam.safetensors", "open_clip:RN50/openai", "s3://me@host/a"):
        assert not names_folder(uri)


SHARD = "model-00002-of-00003.safetensors"


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def grow(path):
    os.truncate(path, 2**27 + 1)


def leave_a_pickle_alone(path):
    for each in path.parent.glob("model*"):
        each.unlink()
    path.write_bytes(b"PK")


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        (SHARD, lambda path: path.unlink(), f"lacks 1 of its files with weights: {SHARD}"),
        (SHARD, cut, r"cannot be read as tensors: .*file not fully covered"),
        (SHARD, lambda path: path.write_bytes(b""), "cannot be read as tensors: it is empty"),
        (SHARD, lambda path: path.write_bytes(b"\xff" * 100), "cannot be read as tensors: .*header too large"),
        (SHARD, replace_by_pipe, "a pipe or a device"),
        ("model.safetensors.index.json", lambda path: path.unlink(), "lacks 1 of its files with weights: model.safete"),
        (
            "model.safetensors.index.json",
            lambda path: change(path, weight_map={"a": "../other/model.safetensors"}),
            "does not name plain .safetensors files",
        ),
        ("config.json", lambda path: path.unlink(), "has no config.json with a model_type"),
        ("config.json", lambda path: path.write_text("[]"), "has no config.json with a model_type"),
        ("config.json", lambda path: path.write_text("{"), "config.json is not JSON"),
        ("config.json", lambda path: change(path, text_config={"auto_map": {"AutoModel": "code.Model"}}), "auto_map"),
        ("tokenizer_config.json", lambda path: change(path, auto_map={"AutoTokenizer": "code.T"}), "never run"),
        ("tokenizer.json", grow, r"has 134,217,729 bytes, at most 134,217,728 are read"),
        ("adapter_config.json", lambda path: path.write_text("{}"), "holds an adapter"),
        ("pytorch_model.bin", leave_a_pickle_alone, r"It has pickles \(pytorch_model\.bin\), which are not loaded"),
    ],
)
def test_a_folder_that_is_not_whole_or_not_safe_is_refused_by_the_file_s_name(folder, name, harm, message):
    harm(folder / name)
    with pytest.raises(ConfigError, match=message):
        ModelFolder.open(str(folder))


@pytest.mark.parametrize("installed", [None, "4.57.1", "5.23.2", "6.0.0"])
def test_without_a_known_version_of_the_extra_the_remedy_is_told(monkeypatch, installed):
    def version(name):
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ConfigError, match=r"pip install 'pseudoris\[hf\]'"):
        check_installed()


VLM = "AutoModelForImageTextToText"
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def opened(saved):
    return ModelFolder.open(str(saved))


def test_a_model_is_what_was_saved_in_eval_mode_with_sdpa(opened):
    model, own = load_model(opened, VLM, **CPU), small_vlm("llava", dtype=torch.float32)[0].state_dict()
    assert own.keys() == model.state_dict().keys()
    assert all(torch.equal(own[name], found) for name, found in model.state_dict().items())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config.text_config._attn_implementation == "sdpa"
    assert load_model(opened, VLM, device=CPU["device"], dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda model, processor: processor.tokenizer.add_tokens("more"),
            "its tokenizer has ids up to 260, and its head 260 tokens: they are of two models",
        ),
        (
            lambda model, processor: setattr(model.config, "image_token_id", 5),
            "an image is token 5 by its config and 258 by its processor",
        ),
    ],
)
def test_a_processor_of_another_model_is_refused(tmp_path, spoil, message):
    parts = small_vlm("llava", dtype=torch.float32)
    spoil(*parts)
    for part in parts:
        part.save_pretrained(tmp_path)
    mixed = ModelFolder.open(str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        check_vocabulary(mixed, model_skeleton(mixed, VLM), load_processor(mixed))


def test_a_model_of_another_kind_or_of_an_unknown_one_is_refused(opened, folder):
    with pytest.raises(ConfigError, match=r"cannot open it as AutoModelForMaskGeneration .*LlavaConfig"):
        model_skeleton(opened, "AutoModelForMaskGeneration")
    change(folder / "config.json", model_type="of_2031")
    with pytest.raises(ConfigError, match=r"transformers 5.* cannot open it as AutoModel.*`?of_2031"):
        model_skeleton(ModelFolder.open(str(folder)), VLM)


@pytest.mark.parametrize(
    ("of_text", "message"),
    [
        ({"num_hidden_layers": 3}, "missing"),
        ({"num_hidden_layers": 1}, "unexpected"),
        ({"vocab_size": 20}, "mismatched"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused(folder, of_text, message):
    config = folder / "config.json"
    change(config, text_config={**json.loads(config.read_text())["text_config"], **of_text})
    with pytest.raises(ConfigError, match=message):
        load_model(ModelFolder.open(str(folder)), VLM, **CPU)


def test_weights_that_are_larger_than_the_free_memory_are_refused_with_both(opened, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=4 * opened.num_parameters - 1))
    with pytest.raises(
        ConfigError, match=r"its 59,840 parameters take 239,360 bytes in torch.float32, and cpu has 239,359"
    ):
        check_fits(opened, **CPU)
    check_fits(opened, torch.device("cpu"), torch.bfloat16)

"""Models and processors come from a model folder as they were saved, or are refused by name before they are loaded."""

from __future__ import annotations

import json
from types import SimpleNamespace

import psutil
import pytest
import torch

from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.hf_models import (
    check_fits,
    check_vocabulary,
    load_model,
    load_processor,
    model_skeleton,
)
from pseudoris.workers.checkpoints.model_folder import ModelFolder
from tests.builders.model_folders import WORDS, save_llava, small_llava

VLM = "AutoModelForImageTextToText"
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ModelFolder.open(str(save_llava(tmp_path_factory.mktemp("saved"))))


def saved(tmp_path, **options):
    return ModelFolder.open(str(save_llava(tmp_path / "model", **options)))


def test_a_model_is_what_was_saved_in_eval_mode_with_sdpa(folder):
    model, own = load_model(folder, VLM, **CPU), small_llava().state_dict()
    assert own.keys() == model.state_dict().keys()
    assert all(torch.equal(own[name], found) for name, found in model.state_dict().items())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config.text_config._attn_implementation == "sdpa"
    assert load_model(folder, VLM, device=CPU["device"], dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_skeleton_has_the_class_and_shapes_and_no_memory(folder):
    skeleton = model_skeleton(folder, VLM)
    assert type(skeleton) is type(small_llava())
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert type(model_skeleton(folder, "LlavaForConditionalGeneration")) is type(skeleton)


def test_a_processor_has_the_folder_s_template_and_the_model_s_vocabulary(folder):
    processor = load_processor(folder)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a red"}]}]
    assert processor.apply_chat_template(asked, add_generation_prompt=True) == "USER: <image> a red ASSISTANT:"
    check_vocabulary(folder, model_skeleton(folder, VLM), processor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": (*WORDS, "more")}, "its tokenizer has ids up to 13, and its head 13 tokens: they are of two models"),
        ({"image_token": 5}, "an image is token 5 by its config and 4 by its processor"),
    ],
)
def test_a_processor_of_another_model_is_refused(tmp_path, options, message):
    mixed = saved(tmp_path, **options)
    with pytest.raises(ConfigError, match=message):
        check_vocabulary(mixed, model_skeleton(mixed, VLM), load_processor(mixed))


def test_a_model_of_another_kind_or_of_an_unknown_one_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot open it as AutoModelForMaskGeneration .*LlavaConfig"):
        model_skeleton(folder, "AutoModelForMaskGeneration")
    unknown = saved(tmp_path)
    config = unknown.path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "of_2031"}))
    with pytest.raises(ConfigError, match=r"transformers 5.* cannot open it as AutoModel.*`?of_2031"):
        model_skeleton(ModelFolder.open(unknown.uri), VLM)


@pytest.mark.parametrize(
    ("of_text", "message"),
    [
        ({"num_hidden_layers": 3}, "missing"),
        ({"num_hidden_layers": 1}, "unexpected"),
        ({"vocab_size": 20}, "mismatched"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused(tmp_path, of_text, message):
    config = saved(tmp_path).path / "config.json"
    tree = json.loads(config.read_text())
    config.write_text(json.dumps({**tree, "text_config": {**tree["text_config"], **of_text}}))
    with pytest.raises(ConfigError, match=message):
        load_model(ModelFolder.open(str(config.parent)), VLM, **CPU)


def test_weights_that_are_larger_than_the_free_memory_are_refused_with_both(folder, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=4 * folder.num_parameters - 1))
    with pytest.raises(
        ConfigError, match=r"its 13,840 parameters take 55,360 bytes in torch.float32, and cpu has 55,359"
    ):
        check_fits(folder, **CPU)
    check_fits(folder, torch.device("cpu"), torch.bfloat16)

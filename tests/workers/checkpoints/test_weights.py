"""Tensors are read into a model; other files are refused, without advice to load them nevertheless."""

import hashlib
import os
import pickle
import traceback
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.learning.checkpoint_folder import load_checkpoint
from pseudoris.workers.checkpoints.openclip import check_activation, read_model_config
from pseudoris.workers.checkpoints.tensor_files import FULL_VOCABULARY, expand_vocabulary, load_into, load_tensors
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.masks.instances import load_detector


@pytest.fixture
def linear():
    return nn.Linear(3, 2)


def written(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return WeightsConfig(uri=str(path))


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_a_wrappers_prefix_on_every_name_is_taken_away(tmp_path, linear, name, prefix):
    state = {f"{prefix}{key}": value for key, value in linear.state_dict().items()}
    other, weights = nn.Linear(3, 2), written(tmp_path / name, state)
    digest = load_into(other, weights)
    assert torch.equal(other.weight, linear.weight)
    assert digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == weights_digest(weights)


@pytest.mark.parametrize("beside", [{}, {"head": nn.Linear(2, 1)}], ids=["alone", "beside another"])
def test_a_part_of_the_model_that_is_called_model_keeps_its_name(tmp_path, beside):
    modules = nn.ModuleDict({"model": nn.Linear(2, 2), **beside})
    torch.save({"model": modules.state_dict()}, tmp_path / "w.pt")
    other = nn.ModuleDict({"model": nn.Linear(2, 2), **{name: nn.Linear(2, 1) for name in beside}})
    load_into(other, WeightsConfig(uri=str(tmp_path / "w.pt")))
    assert torch.equal(other["model"].weight, modules["model"].weight)


def test_a_file_of_another_digest_is_refused(tmp_path, linear):
    weights = written(tmp_path / "w.safetensors", linear.state_dict()).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ConfigError, match=f"expected {'0' * 64}"):
        load_into(linear, weights)


def test_weights_of_another_architecture_are_refused_with_the_tensors_named(tmp_path, linear):
    weights = written(tmp_path / "w.safetensors", linear.state_dict())
    with pytest.raises(ConfigError, match=r"1 of another shape \['weight'\]"):
        load_into(nn.Linear(4, 2), weights)
    larger = nn.Linear(3, 2)
    larger.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match=r"1 tensors missing \['extra'\]"):
        load_into(larger, weights)


def test_a_pickle_that_holds_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w').close()",))

    torch.save({"weight": Evil()}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="cannot be read as tensors"):
        load_into(nn.Linear(1, 1), WeightsConfig(uri=str(tmp_path / "w.pth")))
    assert not (tmp_path / "owned").exists()


def test_weights_trained_with_quickgelu_are_refused_by_an_architecture_without_it():
    weights = WeightsConfig(uri="open_clip:RN50/openai")
    with pytest.raises(ConfigError, match="set architecture to 'RN50-quickgelu'"):
        check_activation("RN50", read_model_config("RN50"), weights)
    paper = load_config("paper").filtering
    check_activation(paper.architecture, read_model_config(paper.architecture), paper.weights)
    assert paper.weights.uri.endswith("/openai")


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


READERS = {
    "tensors": load_tensors,
    "weights": lambda path: load_into(torch.nn.Linear(1, 1), WeightsConfig(uri=str(path))),
    "detector": lambda path: load_detector(str(path)),
    "training": load_checkpoint,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("form", ["archive", "bare pickle", "numpy number"])
def test_a_refusal_gives_no_advice_to_load_the_file_unsafely(tmp_path, reader, form):
    path = tmp_path / "w.pth"
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(Evil(), protocol=2))
    else:
        torch.save({"model": Evil() if form == "archive" else np.float64(3)}, path)
    named = r"numpy\.\S+\.scalar" if form == "numpy number" else r"posix\.system"
    message = rf"\({named}\).* can run any program\. Get the weights as safetensors"
    with pytest.raises((ConfigError, ValueError), match=message) as caught:
        READERS[reader](path)
    shown = "".join(traceback.format_exception(caught.value))
    for advice in ("weights_only", "trusted source", "safe_globals", "\x1b"):
        assert advice not in shown.replace("weights_only=True)", "")


def test_a_text_that_claims_two_gigabytes_takes_no_memory(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"\x80\x02X\xff\xff\xff\x7fa.")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"\w"):
            load_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


IDS = torch.tensor([0, 5, 320, 49406, 49407])


def test_a_vocabulary_survives_the_round_trip_exactly():
    embedding, projection = torch.zeros(FULL_VOCABULARY, 3), torch.zeros(4, FULL_VOCABULARY)
    embedding[IDS], projection[:, IDS] = torch.randn(len(IDS), 3), torch.randn(4, len(IDS))
    full = {"text.token_embedding.weight": embedding, "text_decoder.text_projection": projection, "proj": IDS}
    compact = full | {
        "token_ids": IDS,
        "text.token_embedding.weight": embedding[IDS],
        "text_decoder.text_projection": projection[:, IDS],
    }
    restored = expand_vocabulary(compact, where="here")
    assert restored.keys() == full.keys()
    assert all(torch.equal(restored[name], full[name]) for name in full)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        *((ids, "distinct numbers in") for ids in ([0, 0, 1], [0, FULL_VOCABULARY], [-1, 2])),
        ([0, 1, 2], "has 2 tokens and token_ids 3"),
    ],
)
def test_impossible_ids_are_refused(ids, message):
    with pytest.raises(ConfigError, match=message):
        expand_vocabulary({"token_ids": torch.tensor(ids), "token_embedding.weight": torch.zeros(2, 4)}, where="here")

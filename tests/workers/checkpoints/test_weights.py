import hashlib
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.openclip import check_activation, read_model_config
from pseudoris.workers.checkpoints.tensor_files import load_into
from pseudoris.workers.checkpoints.weight_files import weights_digest


@pytest.fixture
def linear():
    return nn.Linear(3, 2)


def written(path, module):
    if path.suffix == ".safetensors":
        save_file(module.state_dict(), path)
    else:
        torch.save(module.state_dict(), path)
    return WeightsConfig(uri=str(path))


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_a_wrappers_prefix_on_every_name_is_taken_away(tmp_path, linear, name, prefix):
    state = {f"{prefix}{key}": value for key, value in linear.state_dict().items()}
    if name.endswith(".safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    other = nn.Linear(3, 2)
    weights = WeightsConfig(uri=str(tmp_path / name))
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
    weights = written(tmp_path / "w.safetensors", linear).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ConfigError, match=f"expected {'0' * 64}"):
        load_into(linear, weights)


def test_weights_of_another_architecture_are_refused_with_the_tensors_named(tmp_path, linear):
    weights = written(tmp_path / "w.safetensors", linear)
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


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("seed", range(4))
def test_any_damage_of_a_pickle_is_told_as_such(tmp_path, linear, seed):
    torch.save(linear.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "w.pth").read_bytes()
    changes = random.Random(seed)
    num_refused = 0
    for _ in range(100):
        data = bytearray(whole)
        data[changes.randrange(len(data))] = changes.randrange(256)
        (tmp_path / "w.pth").write_bytes(data)
        try:
            load_into(nn.Linear(3, 2), WeightsConfig(uri=str(tmp_path / "w.pth")))
        except ConfigError:
            num_refused += 1
    assert num_refused > 20

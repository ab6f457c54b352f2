"""Files of weights are read into a model, or refused by their header, without advice to load them nevertheless."""

import collections
import copy
import hashlib
import io
import json
import os
import pickle
import struct
import time
import traceback
import zipfile
from collections import OrderedDict
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.training.learning.checkpoint_folder import load_checkpoint
from pseudoris.workers.checkpoints.openclip import check_activation, read_model_config
from pseudoris.workers.checkpoints.tensor_files import (
    FULL_VOCABULARY,
    expand_vocabulary,
    load_into,
    load_tensors,
    read_state,
)
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.checkpoints.weight_headers import check_weight_header
from pseudoris.workers.masks.instances import load_detector
from tests.builders.memory import traced_peak


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
    load_into(other, weights)
    assert torch.equal(other.weight, linear.weight)
    assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == weights_digest(weights)


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
        path.write_bytes(pickle.dumps(Code(), protocol=2))
    else:
        torch.save({"model": Code() if form == "archive" else np.float64(3)}, path)
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
    with traced_peak() as peak_bytes:
        with pytest.raises(ValueError, match=r"\w"):
            load_tensors(path)
        assert peak_bytes() < 64 * 2**20


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


class Code:
    def __reduce__(self):
        return os.system, ("true",)


def saved(value, *, is_archive=True):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=is_archive)
    return file.getvalue()


def state():
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool)
    tensors = {f"{kind}": torch.zeros(30, 7, dtype=kind)[1:] for kind in kinds}
    return OrderedDict(**tensors, empty=torch.zeros(0), p=torch.nn.Parameter(torch.ones(2)))


def trained():
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    plain = {"epoch": 3, "rates": [0.1, 2], "seen": {1}, "large": 2**70, "size": torch.Size([2]), "kind": torch.half}
    return {"state_dict": state(), "optimizer": optimizer.state_dict(), **plain}


def safetensors(data=bytes(16), **changes):
    tensors = {"a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8], **changes}}
    tensors["b"] = {"dtype": "F16", "shape": [4], "data_offsets": [8, 16]}
    header = json.dumps(tensors).encode()
    return len(header).to_bytes(8, "little") + header + data


def without_a_member():
    whole, file = zipfile.ZipFile(io.BytesIO(saved(state()))), io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name)[: 3 if name.endswith("data/0") else None])
    return file.getvalue()


def repacked(data, compression):
    whole, file = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
    return file.getvalue()


def shared_members():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/data/0", bytes(10_000))
        for number in range(1, 9):
            shared = copy.copy(archive.getinfo("x/data/0"))
            shared.filename = f"x/data/{number}"
            archive.filelist.append(shared)
    return file.getvalue()


SOUND = {
    **{
        f"{kind} {name}": ("x.pth", saved(make(), is_archive=kind == "archive"))
        for kind in ("archive", "old")
        for name, make in (("state", state), ("trainer's", trained))
    },
    "safetensors": ("x.safetensors", save(dict(state()))),
    "safetensors by hand": ("x.safetensors", safetensors()),
}
MORE = "holds more than tensors and plain values"
DAMAGED = {
    "code in an archive": ("x.pth", saved({"a": Code()}), rf"{MORE} \(posix.system\)"),
    "code, old": ("x.pth", saved({"a": Code()}, is_archive=False), rf"{MORE} \(posix.system\)"),
    "code in a pickle": ("x.pth", pickle.dumps(Code(), 2), rf"{MORE} \(posix.system\)"),
    "code, protocol 4": ("x.pth", pickle.dumps(Code(), 4), rf"{MORE} \(FRAME\)"),
    "a module": ("x.pth", saved(torch.nn.Linear(1, 1)), rf"{MORE} \(torch.nn.modules.linear.Linear\)"),
    "a dict of plain values": ("x.pth", pickle.dumps({"a": 1}, 2), "neither safetensors nor a checkpoint of torch"),
    "a cut archive": ("x.pth", saved(state())[:-30], "is cut or damaged: get it again"),
    "a cut member": ("x.pth", without_a_member(), r"its tensors need [\d,]+ bytes of data/0"),
    "old, cut": ("x.pth", saved(state(), is_archive=False)[:-30], r"get it again \([\d,]+ bytes, [\d,]+ by its pickle"),
    "deflated": ("x.pth", repacked(saved(state()), zipfile.ZIP_DEFLATED), "members are compressed"),
    "sharing bytes": ("x.pth", shared_members(), r"[\d,]+ bytes, [\d,]+ by its list of members"),
    "another archive": ("x.pth", b"PK\x05\x06" + bytes(18), "neither safetensors nor a checkpoint of torch"),
    "a table cut": ("x.safetensors", safetensors()[:40], "cut or damaged: get it again"),
    "data cut": ("x.safetensors", safetensors(bytes(9)), "not fully covered"),
    "overlapping": ("x.safetensors", safetensors(data_offsets=[4, 12]), "invalid offset"),
    "out of range": ("x.safetensors", safetensors(data_offsets=[0, 2**40], shape=[2**39]), "offset"),
    "another shape": ("x.safetensors", safetensors(shape=[5]), "invalid shape"),
    "unknown kind": ("x.safetensors", safetensors(dtype="F9"), "unknown variant"),
    "a pickle by another name": ("x.safetensors", saved(state()), "cut or damaged"),
    "empty": ("x.pth", b"", "it is empty: get it again"),
    "an empty table": ("x.safetensors", b"", "it is empty: get it again"),
    "a web page": ("x.pth", b"\n<!DOCTYPE html><html>", "it is a web page: download the file itself"),
    "a pointer": ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS.*git lfs pull"),
    "text": ("x.pth", b"hello", "neither safetensors nor a checkpoint of torch"),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_file_that_is_loaded_has_a_header_that_is_accepted(tmp_path, name):
    path = tmp_path / SOUND[name][0]
    path.write_bytes(SOUND[name][1])
    assert load_tensors(path)
    check_weight_header(path, "weights")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_cannot_be_loaded_is_refused_by_its_header_in_one_sentence(tmp_path, name):
    file, data, message = DAMAGED[name]
    path = tmp_path / file
    path.write_bytes(data)
    with pytest.raises((ValueError, OSError)):
        load_tensors(path)
    with pytest.raises(ConfigError, match=f"^weights 'x' cannot be read as tensors: .*({message})") as refused:
        check_weight_header(path, "weights 'x'")
    assert "\n" not in str(refused.value)


def test_every_door_of_checkpoints_refuses_members_that_grow_before_they_take_memory(tmp_path):
    large = saved({"module": {"x": torch.zeros(2**26)}, "settings": "{}"})
    (tmp_path / "x.pt").write_bytes(repacked(large, zipfile.ZIP_DEFLATED))
    assert (tmp_path / "x.pt").stat().st_size < 2**19
    with pytest.raises(ConfigError, match=r"x\.pt is not a checkpoint of a training: its members are compressed"):
        load_checkpoint(tmp_path / "x.pt")
    with (tmp_path / "x.pt").open("rb") as file, pytest.raises(ConfigError, match="its members are compressed"):
        read_state(file, "prior.path=s3://b/x.pt")


def test_a_file_that_may_not_be_read_and_a_folder_are_told_by_the_system_s_reason(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="cannot be read as tensors: Is a directory"):
        check_weight_header(tmp_path, "weights")
    monkeypatch.setattr("os.open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(ConfigError, match="cannot be read as tensors: Permission denied"):
        check_weight_header(tmp_path / "x.pth", "weights")


def test_each_name_that_torch_loads_is_accepted(tmp_path):
    modules = (collections, torch._utils, torch._tensor, torch.nn.parameter, torch.storage, torch.serialization)
    names = {f"{module.__name__}.{name}" for module in modules for name in dir(module)}
    names |= {"_codecs.encode", *(f"builtins.{name}" for name in ("bytearray", "complex", "set"))}
    names |= {f"torch.{kind}{name}" for kind in ("", "cuda.", "sparse.", "cuda.sparse.") for name in dir(torch)}
    calls = {name: "c{0}\n{2}\n".format(*name.rpartition(".")).encode() for name in names}

    def write(data):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("x/data.pkl", b"\x80\x02" + data + b".")
            archive.writestr("x/version", "3")

    write(b"".join(calls.values()))
    loaded = names - {*torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "x.pth")}
    assert len(loaded) > 140
    for name in loaded:
        write(calls[name])
        check_weight_header(tmp_path / "x.pth", name)


def test_a_pickle_without_end_is_refused_within_two_seconds(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"N" * 2**25)
    began_s = time.process_time()
    with pytest.raises(ConfigError, match=r"more than tensors and plain values \(NONE\)"):
        check_weight_header(tmp_path / "x.pth", "weights")
    assert time.process_time() - began_s < 2


def test_an_archive_of_a_million_members_is_refused_before_they_are_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x", b"")
    data = (tmp_path / "x.pth").read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    members = data[start:end] * 1_000_000
    ending = data[end : end + 12] + struct.pack("<L", len(members)) + data[end + 16 :]
    (tmp_path / "x.pth").write_bytes(data[:start] + members + ending)
    began_s = time.process_time()
    with pytest.raises(ConfigError, match=r"its list of members has 47,000,000 bytes, at most 4,194,304 are read"):
        check_weight_header(tmp_path / "x.pth", "weights")
    assert time.process_time() - began_s < 2

"""What no loader reads is refused by its header, and what torch's own unpickler of weights reads is accepted."""

import collections
import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save

from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.tensor_files import load_tensors
from pseudoris.workers.checkpoints.weight_headers import check_weight_header


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


def test_a_file_that_may_not_be_read_and_a_folder_are_told_by_the_system_s_reason(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    with pytest.raises(ConfigError, match="cannot be read as tensors: Is a directory"):
        check_weight_header(tmp_path, "weights")
    monkeypatch.setattr("os.open", refused)
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

import hashlib
import random

import fsspec
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.openclip import read_model_config
from pseudoris.workers.checkpoints.weights import check_activation, load_into, local_file, random_seed, weights_digest


@pytest.fixture
def linear():
    return nn.Linear(3, 2)


def written(path, module):
    if path.suffix == ".safetensors":
        save_file(module.state_dict(), path)
    else:
        torch.save(module.state_dict(), path)
    return WeightsConfig(uri=str(path))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_survive_the_round_trip(tmp_path, linear, name):
    weights = written(tmp_path / name, linear)
    other = nn.Linear(3, 2)
    digest = load_into(other, weights)
    assert torch.equal(other.weight, linear.weight)
    assert digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == weights_digest(weights)


def test_a_training_checkpoint_with_a_state_dict_inside_is_read(tmp_path, linear):
    state = {f"module.{key}": value for key, value in linear.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pt")
    other = nn.Linear(3, 2)
    load_into(other, WeightsConfig(uri=str(tmp_path / "w.pt")))
    assert torch.equal(other.bias, linear.bias)


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_a_wrappers_prefix_on_every_name_is_taken_away(tmp_path, linear, name, prefix):
    state = {f"{prefix}{key}": value for key, value in linear.state_dict().items()}
    if name.endswith(".safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    other = nn.Linear(3, 2)
    load_into(other, WeightsConfig(uri=str(tmp_path / name)))
    assert torch.equal(other.weight, linear.weight)


@pytest.mark.parametrize("beside", [{}, {"head": nn.Linear(2, 1)}], ids=["alone", "beside another"])
def test_a_part_of_the_model_that_is_called_model_keeps_its_name(tmp_path, beside):
    modules = nn.ModuleDict({"model": nn.Linear(2, 2), **beside})
    torch.save({"model": modules.state_dict()}, tmp_path / "w.pt")
    other = nn.ModuleDict({"model": nn.Linear(2, 2), **{name: nn.Linear(2, 1) for name in beside}})
    load_into(other, WeightsConfig(uri=str(tmp_path / "w.pt")))
    assert torch.equal(other["model"].weight, modules["model"].weight)


def test_a_missing_file_names_the_command_that_gets_it():
    weights = WeightsConfig(uri="checkpoints/none.pth", how_to_get="curl -o checkpoints/none.pth https://example.org")
    with pytest.raises(ConfigError, match=r"no such file\. To get them: curl -o checkpoints/none.pth"):
        weights_digest(weights)


def test_missing_weights_of_the_package_name_the_training_command():
    with pytest.raises(ConfigError, match=r"python -m pseudoris\.synthworld\.train"):
        local_file(WeightsConfig(uri="builtin:tiny/none.safetensors"))


def test_an_unknown_hub_tag_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"tags of 'coca_ViT-B-32': .*laion2b_s13b_b90k"):
        local_file(WeightsConfig(uri="open_clip:coca_ViT-B-32/nothing"))


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


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_damaged_file_is_refused(tmp_path, linear, name):
    weights = written(tmp_path / name, linear)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:60])
    with pytest.raises(ConfigError, match="cannot be read as tensors"):
        load_into(linear, weights)


@pytest.fixture
def remote(tmp_path, linear, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written(tmp_path / "w.safetensors", linear)
    memory = fsspec.filesystem("memory")
    memory.pipe("/weights/w.safetensors", (tmp_path / "w.safetensors").read_bytes())
    yield memory
    memory.rm("/weights", recursive=True)


REMOTE = "memory://weights/w.safetensors"


def test_a_url_is_fetched_once_and_anew_when_its_file_is_another(tmp_path, remote, monkeypatch):
    weights = WeightsConfig(uri=REMOTE)
    first = local_file(weights)
    opened = []
    monkeypatch.setattr(fsspec, "open", lambda *args, real=fsspec.open: opened.append(args) or real(*args))
    assert local_file(weights) == first
    assert not opened
    other = nn.Linear(3, 2)
    written(tmp_path / "other.safetensors", other)
    remote.pipe("/weights/w.safetensors", (tmp_path / "other.safetensors").read_bytes())
    loaded = nn.Linear(3, 2)
    assert load_into(loaded, weights) == hashlib.sha256((tmp_path / "other.safetensors").read_bytes()).hexdigest()
    assert torch.equal(loaded.weight, other.weight)


def test_a_url_with_a_digest_needs_its_store_once(tmp_path, remote):
    digest = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    weights = WeightsConfig(uri=REMOTE, sha256=digest)
    first = local_file(weights)
    remote.pipe("/weights/w.safetensors", b"another file")
    assert local_file(weights) == first
    assert weights_digest(weights) == digest


def test_a_fetched_file_of_another_digest_is_not_kept(tmp_path, remote):
    with pytest.raises(ConfigError, match=f"expected {'0' * 64}"):
        local_file(WeightsConfig(uri=REMOTE, sha256="0" * 64))
    assert not list((tmp_path / "pseudoris-weights").iterdir())


def test_a_fetch_that_breaks_off_leaves_nothing_behind(tmp_path, remote, monkeypatch):
    def broken(source, out, size):
        out.write(source.read(10))
        raise OSError("the connection was lost")

    monkeypatch.setattr("shutil.copyfileobj", broken)
    with pytest.raises(ConfigError, match="cannot be fetched: OSError: the connection was lost"):
        local_file(WeightsConfig(uri=REMOTE))
    assert not list((tmp_path / "pseudoris-weights").iterdir())


def test_a_url_that_holds_nothing_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be fetched: FileNotFoundError"):
        local_file(WeightsConfig(uri="memory://weights/none.safetensors"))


def test_random_weights_have_a_digest_of_their_own_and_no_file():
    assert random_seed(WeightsConfig(uri="random:7")) == 7
    assert weights_digest(WeightsConfig(uri="random:7")) != weights_digest(WeightsConfig(uri="random:8"))
    with pytest.raises(ConfigError, match="'random:' needs a whole number"):
        random_seed(WeightsConfig(uri="random:x"))


def test_weights_trained_with_quickgelu_are_refused_by_an_architecture_without_it():
    weights = WeightsConfig(uri="open_clip:RN50/openai")
    with pytest.raises(ConfigError, match="set architecture to 'RN50-quickgelu'"):
        check_activation("RN50", read_model_config("RN50"), weights)
    check_activation("RN50-quickgelu", read_model_config("RN50-quickgelu"), weights)


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


@pytest.mark.parametrize("kind", ["open to others", "another's", "a link"])
def test_a_folder_of_fetched_weights_that_others_may_write_to_is_not_used(tmp_path, remote, monkeypatch, kind):
    folder = tmp_path / "pseudoris-weights"
    if kind == "a link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777 if kind == "open to others" else 0o700)
    if kind == "another's":
        monkeypatch.setattr("os.getuid", lambda: 4711)
    with pytest.raises(
        ConfigError, match=r"is not a folder that only this user can write to .* remove it, or set TMPDIR"
    ):
        local_file(WeightsConfig(uri=REMOTE))

"""Files of weights are found, fetched or refused; what is said of published ones agrees with what publishes them."""

import hashlib
import re
from shutil import copyfileobj

import fsspec
import pytest
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg
from safetensors.torch import save_file
from torch import nn

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import WeightsConfig
from pseudoris.workers.checkpoints.tensor_files import load_into
from pseudoris.workers.checkpoints.weight_cache import TAG_REPOS, published_file, random_seed, user_cache
from pseudoris.workers.checkpoints.weight_files import local_file, weights_digest
from tests.builders.sources import write_files


def test_a_missing_file_names_the_command_that_gets_it():
    weights = WeightsConfig(uri="checkpoints/none.pth", how_to_get="curl -o checkpoints/none.pth https://example.org")
    with pytest.raises(ConfigError, match=r"no such file\. To get them: curl -o checkpoints/none.pth"):
        weights_digest(weights)


@pytest.fixture
def remote(tmp_path, monkeypatch):
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path / "cache"))
    save_file(nn.Linear(3, 2).state_dict(), tmp_path / "w.safetensors")
    memory = fsspec.filesystem("memory")
    memory.pipe("/weights/w.safetensors", (tmp_path / "w.safetensors").read_bytes())
    yield memory
    memory.rm("/weights", recursive=True)


REMOTE = "memory://weights/w.safetensors"


def test_a_url_is_fetched_once_and_anew_when_its_file_is_another(tmp_path, remote, monkeypatch):
    weights = WeightsConfig(uri=REMOTE)
    first = local_file(weights)
    copied = []
    monkeypatch.setattr("shutil.copyfileobj", lambda *args, real=copyfileobj: copied.append(args) or real(*args))
    assert local_file(weights) == first
    assert not copied
    other = nn.Linear(3, 2)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    remote.pipe("/weights/w.safetensors", (tmp_path / "other.safetensors").read_bytes())
    loaded = nn.Linear(3, 2)
    load_into(loaded, weights)
    assert torch.equal(loaded.weight, other.weight)
    assert len(copied) == 1


def test_a_fetched_file_of_another_digest_is_not_kept(tmp_path, remote):
    with pytest.raises(ConfigError, match=f"expected {'0' * 64}"):
        local_file(WeightsConfig(uri=REMOTE, sha256="0" * 64))
    assert not list((tmp_path / "cache" / "urls").iterdir())


def test_a_fetch_that_breaks_off_leaves_nothing_behind(tmp_path, remote, monkeypatch):
    def broken(source, out, size):
        out.write(source.read(10))
        raise OSError("the connection was lost")

    monkeypatch.setattr("shutil.copyfileobj", broken)
    with pytest.raises(ConfigError, match="cannot be fetched: OSError: the connection was lost"):
        local_file(WeightsConfig(uri=REMOTE))
    assert not list((tmp_path / "cache" / "urls").iterdir())


def test_a_url_that_holds_nothing_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="cannot be fetched: FileNotFoundError"):
        local_file(WeightsConfig(uri="memory://weights/none.safetensors"))


def test_random_weights_have_a_digest_of_their_own_and_no_file():
    assert random_seed(WeightsConfig(uri="random:7")) == 7
    assert weights_digest(WeightsConfig(uri="random:7")) != weights_digest(WeightsConfig(uri="random:8"))


@pytest.mark.parametrize("kind", ["open to others", "another's", "a link"])
def test_a_folder_of_fetched_weights_that_others_may_write_to_is_not_used(tmp_path, remote, monkeypatch, kind):
    monkeypatch.delenv("PSEUDORIS_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "pseudoris" / "weights"
    if kind == "a link":
        (tmp_path / "elsewhere").mkdir()
        folder.parent.mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir(parents=True)
        folder.chmod(0o777 if kind == "open to others" else 0o700)
    if kind == "another's":
        monkeypatch.setattr("os.getuid", lambda: 4711)
    with pytest.raises(
        ConfigError, match=r"is not a folder that only this user can write to .* remove it, or set PSEUDORIS_WEIGHTS"
    ):
        local_file(WeightsConfig(uri=REMOTE))


CHECKPOINT = WeightsConfig(uri="checkpoints/sam_vit_b_01ec64.pth")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache, below a folder that commands run in."""
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_a_checkpoint_is_found_in_the_cache_from_any_folder(cache):
    write_files(cache, {"mine/sam.pth": b"weights"})
    weights = WeightsConfig(uri="checkpoints/mine/sam.pth")
    assert local_file(weights) == cache / "mine" / "sam.pth"
    assert weights_digest(weights) == hashlib.sha256(b"weights").hexdigest()


def test_a_checkpoint_in_the_working_folder_wins(cache):
    write_files(cache.parent, {"cache/sam_vit_b_01ec64.pth": b"in the cache", CHECKPOINT.uri: b"a person's own"})
    assert weights_digest(CHECKPOINT) == hashlib.sha256(b"a person's own").hexdigest()


def test_a_published_file_in_the_cache_must_be_what_was_published(cache):
    (cache / "sam_vit_b_01ec64.pth").write_bytes(b"other bytes")
    with pytest.raises(
        ConfigError, match=r"but ec2df627\w+ is published .* pseudoris weights get checkpoints/sam_vit_b"
    ):
        weights_digest(CHECKPOINT)


@pytest.mark.parametrize("uri", ["checkpoints/../sam.pth", "other/sam.pth", "/checkpoints/sam.pth", "checkpoints"])
def test_no_other_path_is_looked_for_in_the_cache(cache, uri):
    (cache / "sam.pth").write_bytes(b"weights")
    with pytest.raises(ConfigError, match="there is no such file"):
        local_file(WeightsConfig(uri=uri))


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_hub_tag_is_found_in_the_cache_without_a_network(cache, name):
    folder = write_files(cache / "timm" / "resnet50_clip.openai", {name: b"weights"})
    assert local_file(WeightsConfig(uri="open_clip:RN50-quickgelu/openai")) == folder / name


def test_a_hub_tag_that_open_clip_s_own_download_cached_is_found(cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache / "hub"))
    name = f"snapshots/{'a' * 40}/open_clip_model.safetensors"
    files = {name: b"weights", "refs/main": b"a" * 40}
    folder = write_files(cache / "hub" / "models--timm--resnet50_clip.openai", files)
    assert local_file(WeightsConfig(uri="open_clip:RN50-quickgelu/openai")) == folder / name


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        (
            CHECKPOINT.uri,
            "To get them: pseudoris weights get base. By hand: download "
            "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth and put it at "
            "CACHE/sam_vit_b_01ec64.pth (375,042,383 bytes, sha256 ec2df627",
        ),
        (
            "open_clip:RN50-quickgelu/openai",
            "huggingface.co cannot be reached (HF_HUB_OFFLINE is set). "
            "To get them: pseudoris weights get open_clip:RN50-quickgelu/openai. By hand: download "
            "https://huggingface.co/timm/resnet50_clip.openai/resolve/main/open_clip_model.safetensors and put it at "
            "CACHE/timm/resnet50_clip.openai/open_clip_model.safetensors",
        ),
    ],
    ids=["a checkpoint", "a tag of the hub"],
)
def test_a_missing_published_file_is_told_with_its_source_and_place(cache, monkeypatch, uri, told):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=f"{re.escape(told.replace('CACHE', str(cache)))}[^\n]*$"):
        local_file(WeightsConfig(uri=uri))


def test_the_folder_of_weights_may_have_a_name_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", "~nouser/weights")
    assert user_cache().folder == tmp_path / "~nouser" / "weights"


@pytest.mark.parametrize("tag", TAG_REPOS)
def test_the_repositories_of_tags_are_those_of_open_clip(tag):
    name, _, label = tag.rpartition("/")
    assert get_pretrained_cfg(name, label)["hf_hub"] == f"{TAG_REPOS[tag]}/"


def test_a_tag_has_open_clip_s_file_names_in_its_order():
    known = published_file(WeightsConfig(uri="open_clip:RN50-quickgelu/openai"))
    assert (known.repo, known.revision) == ("timm/resnet50_clip.openai", "main")
    assert tuple(known.files.values()) == (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    assert known.licence == "MIT"


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("RN50", "/TAG is missing behind 'RN50'; tags of 'RN50': openai, yfcc15m, cc12m"),
        ("RN50/none", "open_clip has no such model and tag; tags of 'RN50': openai"),
        ("RN51/openai", r"tags of 'RN51': none. open_clip.list_pretrained\(\) lists all models"),
    ],
)
def test_a_tag_that_open_clip_does_not_know_is_told_with_those_that_it_knows(tag, message):
    with pytest.raises(ConfigError, match=message):
        published_file(WeightsConfig(uri=f"open_clip:{tag}"))


def test_nothing_is_known_of_a_person_s_own_files():
    for uri in ("mine.pth", "s3://bucket/sam_vit_b_01ec64.pth", "builtin:tiny/sam.safetensors", "random:3"):
        assert published_file(WeightsConfig(uri=uri)) is None

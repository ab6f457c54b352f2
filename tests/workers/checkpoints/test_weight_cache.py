"""Published files come into the cache once, with the digest that the hub records or that was seen first."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from dataclasses import replace

import huggingface_hub.constants
import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.download import UnreachableError, fetch
from pseudoris.workers.checkpoints.model_folder import ModelFolder, fetch_folder
from pseudoris.workers.checkpoints.published_weights import PublishedFile
from pseudoris.workers.checkpoints.weight_cache import Pin, WeightCache
from tests.builders.model_folders import save_llava
from tests.builders.weight_server import COMMIT, serving_weights, use_as_hub

CONTENT = random.Random(1).randbytes(100_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SAFE, PICKLED = "owner/repo/model.safetensors", "owner/repo/model.bin"
HUB_FILE = PublishedFile({SAFE: "model.safetensors", PICKLED: "model.bin"}, "owner/repo")


@pytest.fixture
def server(monkeypatch):
    with serving_weights() as server:
        use_as_hub(server, monkeypatch)
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PSEUDORIS_WEIGHTS", str(tmp_path / "cache"))
    return WeightCache(tmp_path / "cache", is_named=True)


def gets(server):
    # The hub's library may ask for other things of its own.
    return [path for path, _ in server.requests if not path.startswith("/api/")]


def test_a_file_of_the_hub_is_fetched_by_its_commit_and_pinned(server, cache):
    server.files[f"/{SAFE}"] = CONTENT
    assert fetch(HUB_FILE, cache) == cache.path(SAFE)
    assert cache.path(SAFE).read_bytes() == CONTENT
    assert cache.pins() == {SAFE: Pin(SHA256, len(CONTENT), COMMIT)}
    assert gets(server) == [f"/owner/repo/resolve/{COMMIT}/model.safetensors"]
    fetch(HUB_FILE, cache)
    assert len(gets(server)) == 1


def test_a_repository_without_safetensors_gives_its_pickle(server, cache):
    server.files[f"/{PICKLED}"] = CONTENT
    assert fetch(HUB_FILE, cache) == cache.path(PICKLED)


def test_once_pinned_the_same_file_is_fetched_though_a_preferred_one_appeared(server, cache):
    server.files[f"/{PICKLED}"] = CONTENT
    fetch(HUB_FILE, cache).unlink()
    server.files[f"/{SAFE}"] = b"the same weights in other bytes"
    assert fetch(HUB_FILE, cache) == cache.path(PICKLED)


def test_another_digest_than_the_pinned_one_is_refused_with_both(server, cache):
    server.files[f"/{SAFE}"] = CONTENT
    fetch(HUB_FILE, cache).unlink()
    server.files[f"/{SAFE}"] = b"another version"
    other = hashlib.sha256(b"another version").hexdigest()
    with pytest.raises(ConfigError, match=rf"sha256 {other} now; at its first use it had {SHA256}, .*pins\.json"):
        fetch(HUB_FILE, cache)
    assert not cache.path(SAFE).exists()


def test_a_damaged_file_is_fetched_again(server, cache):
    server.files[f"/{SAFE}"] = CONTENT
    fetch(HUB_FILE, cache).write_bytes(b"damaged")
    fetch(HUB_FILE, cache)
    assert cache.path(SAFE).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_compared_with_the_hub_s_record_when_it_can_be(server, cache):
    server.files[f"/{SAFE}"] = CONTENT
    cache.make_folder(SAFE).write_bytes(CONTENT)
    fetch(HUB_FILE, cache)
    assert cache.pins()[SAFE].sha256 == SHA256
    assert not gets(server)


def test_what_the_hub_s_own_library_has_filed_needs_no_network(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / SHA256).write_bytes(CONTENT)
    link = tmp_path / "model.safetensors"
    link.symlink_to(tmp_path / SHA256)
    assert fetch(HUB_FILE, cache, copies=[(SAFE, link)]).read_bytes() == CONTENT
    assert cache.pins()[SAFE].sha256 == SHA256


def test_a_wrong_copy_is_not_taken(cache, tmp_path):
    (tmp_path / "copy.pth").write_bytes(b"other")
    published = PublishedFile({"sam.pth": "http://127.0.0.1:9/sam.pth"}, sha256=SHA256)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1 cannot be reached \("):
        fetch(published, cache, copies=[("sam.pth", tmp_path / "copy.pth")])


def test_two_who_fetch_the_same_file_download_it_once(server, cache):
    server.files["/sam.pth"] = CONTENT
    published = PublishedFile({"sam.pth": f"{server.url}/sam.pth"}, sha256=SHA256, size_bytes=len(CONTENT))
    threads = [threading.Thread(target=fetch, args=(published, cache)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.path("sam.pth").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_record_of_digests_that_cannot_be_read_is_named(cache):
    cache.make_folder("pins.json").write_text("[")
    with pytest.raises(ConfigError, match=r"pins\.json, the record .* cannot be read"):
        cache.pins()


def test_pins_are_added_and_never_changed(cache):
    cache.add_pin("a", Pin("1" * 64, 1))
    cache.add_pin("a", Pin("2" * 64, 2))
    cache.add_pin("b", Pin("3" * 64, 3, "commit"))
    assert [pin.sha256[0] for pin in cache.pins().values()] == ["1", "3"]
    assert json.loads(cache.path("pins.json").read_text())["b"]["revision"] == "commit"


def test_another_cache_knows_the_pins_of_the_user_s_own(server, cache, tmp_path):
    server.files[f"/{SAFE}"] = b"another version"
    cache.add_pin(SAFE, Pin(SHA256, len(CONTENT)))
    with pytest.raises(ConfigError, match=f"at its first use it had {SHA256}"):
        fetch(HUB_FILE, replace(cache, folder=tmp_path / "elsewhere"))


MODEL = f"owner/model@{COMMIT}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_llava(tmp_path_factory.mktemp("saved"), shard="20KB")


@pytest.fixture
def hub(server, saved):
    server.files = {f"/owner/model/{path.name}": path.read_bytes() for path in saved.iterdir()}
    server.files |= {"/owner/model/README.md": b"words", "/owner/model/pytorch_model.bin": b"PK"}
    return server


def test_of_a_model_the_files_that_are_read_are_fetched_by_commit_and_its_config_last(hub, cache, saved):
    assert fetch_folder(MODEL, cache) == cache.path(MODEL)
    assert {path.name for path in cache.path(MODEL).iterdir()} == {path.name for path in saved.iterdir()}
    assert gets(hub)[-1] == f"/owner/model/resolve/{COMMIT}/config.json"
    assert ModelFolder.open(MODEL).sha256 == ModelFolder.open(str(saved)).sha256


def test_what_broke_off_is_continued_and_a_whole_model_asks_nothing(hub, cache, saved):
    hub.faults = [("", 0), ("", 0), ("status", 403)]
    with pytest.raises(ConfigError, match="the server answers 403"):
        fetch_folder(MODEL, cache)
    with pytest.raises(ConfigError, match="is not on this machine"):
        ModelFolder.open(MODEL)
    fetch_folder(MODEL, cache)
    # The third alone was asked for twice.
    assert len(gets(hub)) == len(list(saved.iterdir())) + 1
    asked = len(hub.requests)
    fetch_folder(MODEL, cache)
    assert len(hub.requests) == asked


def test_a_changed_file_of_a_model_is_fetched_again(hub, cache, saved):
    (fetch_folder(MODEL, cache) / "tokenizer.json").write_bytes(b"{}")
    fetch_folder(MODEL, cache)
    assert (cache.path(MODEL) / "tokenizer.json").read_bytes() == (saved / "tokenizer.json").read_bytes()


def test_a_commit_that_is_gone_is_refused_by_name(hub, cache):
    hub.refusals["owner/model"] = (404, "RevisionNotFound", f"Invalid rev id: {COMMIT}")
    with pytest.raises(ConfigError, match=rf"model '{MODEL}': .*Invalid rev id.* no such commit, .*/commits/main"):
        fetch_folder(MODEL, cache)


def test_a_model_without_safetensors_is_refused(hub, cache):
    hub.files = {name: content for name, content in hub.files.items() if "safetensors" not in name}
    with pytest.raises(ConfigError, match="has no weights as safetensors, and pickles are not loaded"):
        fetch_folder(MODEL, cache)

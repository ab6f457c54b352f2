"""Published files come into the cache once, whole, with the digest that is recorded or was seen first."""

import functools
import hashlib
import json
import random
import threading
import time
from dataclasses import replace

import httpx2
import huggingface_hub.constants
import pytest

from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.workers.checkpoints.download import UnreachableError, fetch
from pseudoris.workers.checkpoints.model_folder import ModelFolder, fetch_folder
from pseudoris.workers.checkpoints.weight_cache import Pin, PublishedFile, WeightCache
from tests.builders.weight_server import COMMIT, serving_weights, use_as_hub

CONTENT = random.Random(0).randbytes(300_000)
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/weights.bin"
SAFE, PICKLED = "owner/repo/model.safetensors", "owner/repo/model.bin"
HUB_FILE = PublishedFile({SAFE: "model.safetensors", PICKLED: "model.bin"}, "owner/repo")


@pytest.fixture(scope="module")
def client():
    """A client that reads the certificates once: each attempt makes one, in 20 ms."""
    return functools.partial(httpx2.Client, verify=httpx2.create_ssl_context())


@pytest.fixture
def server(client, monkeypatch):
    monkeypatch.setattr(httpx2, "Client", client)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with serving_weights() as server:
        use_as_hub(server.url, monkeypatch)
        server.files[PATH] = CONTENT
        yield server


def gets(server):
    # The hub's library may ask for other things of its own.
    return [path for path, _ in server.requests if not path.startswith("/api/")]


def test_a_file_of_the_hub_is_fetched_by_its_commit_and_pinned_and_again_once_it_is_damaged(server, cache):
    server.files[f"/{SAFE}"] = CONTENT
    assert fetch(HUB_FILE, cache) == cache.path(SAFE)
    assert cache.path(SAFE).read_bytes() == CONTENT
    assert cache.pins() == {SAFE: Pin(SHA256, SIZE, COMMIT)}
    assert gets(server) == [f"/owner/repo/resolve/{COMMIT}/model.safetensors"]
    fetch(HUB_FILE, cache)
    assert len(gets(server)) == 1
    cache.path(SAFE).write_bytes(b"damaged")
    assert fetch(HUB_FILE, cache).read_bytes() == CONTENT


def test_a_repository_without_safetensors_gives_its_pickle_also_after_a_preferred_one_appeared(server, cache):
    server.files[f"/{PICKLED}"] = CONTENT
    assert fetch(HUB_FILE, cache) == cache.path(PICKLED)
    cache.path(PICKLED).unlink()
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


def test_two_who_fetch_the_same_file_download_it_once(server, cache, caplog):
    server.files |= {"/sam.pth": CONTENT, "/other.pth": CONTENT}
    published, other = (
        PublishedFile({name: f"{server.url}/{name}"}, sha256=SHA256, size_bytes=SIZE)
        for name in ("sam.pth", "other.pth")
    )
    # What a first download imports is there.
    fetch(other, cache)
    threads = [threading.Thread(target=fetch, args=(published, cache)) for _ in range(4)]
    with cache.lock("sam.pth"):
        for thread in threads:
            thread.start()
        while caplog.text.count("waiting for it") < 4:
            time.sleep(0.01)
        time.sleep(0.3)
        assert len(server.requests) == 1
    for thread in threads:
        thread.join()
    assert cache.path("sam.pth").read_bytes() == CONTENT
    assert len(server.requests) == 2


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
    cache.add_pin(SAFE, Pin(SHA256, SIZE))
    with pytest.raises(ConfigError, match=f"at its first use it had {SHA256}"):
        fetch(HUB_FILE, replace(cache, folder=tmp_path / "elsewhere"))


MODEL = f"owner/model@{COMMIT}"


@pytest.fixture
def hub(server, saved):
    server.files = {f"/owner/model/{path.name}": path.read_bytes() for path in saved.iterdir()}
    server.files |= {"/owner/model/README.md": b"words", "/owner/model/pytorch_model.bin": b"PK"}
    return server


def test_of_a_model_the_files_that_are_read_are_fetched_by_commit_its_config_last_and_a_changed_one_again(
    hub, cache, saved
):
    assert fetch_folder(MODEL, cache) == cache.path(MODEL)
    assert {path.name for path in cache.path(MODEL).iterdir()} == {path.name for path in saved.iterdir()}
    assert gets(hub)[-1] == f"/owner/model/resolve/{COMMIT}/config.json"
    assert ModelFolder.open(MODEL).sha256 == ModelFolder.open(str(saved)).sha256
    changed = cache.path(MODEL) / "tokenizer.json"
    changed.write_bytes(b"{}")
    fetch_folder(MODEL, cache)
    assert changed.read_bytes() == (saved / "tokenizer.json").read_bytes()


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


def test_a_commit_that_is_gone_is_refused_by_name(hub, cache):
    hub.refusals["owner/model"] = (404, "RevisionNotFound", f"Invalid rev id: {COMMIT}")
    with pytest.raises(ConfigError, match=rf"model '{MODEL}': .*Invalid rev id.* no such commit, .*/commits/main"):
        fetch_folder(MODEL, cache)


def test_a_model_without_safetensors_is_refused(hub, cache):
    hub.files = {name: content for name, content in hub.files.items() if "safetensors" not in name}
    with pytest.raises(ConfigError, match="has no weights as safetensors, and pickles are not loaded"):
        fetch_folder(MODEL, cache)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "weights.bin"


def fetched(server, target, *, sha256=SHA256, size_bytes=SIZE, on_progress=lambda *_: None):
    published = PublishedFile({target.name: server.url + PATH}, sha256=sha256, size_bytes=size_bytes)
    assert fetch(published, WeightCache(target.parent, is_named=True), on_progress=on_progress) == target


def ranges(server):
    return [asked for _, asked in server.requests]


def kept(target):
    return [path.name for path in target.parent.iterdir() if path.name not in (".locks", "pins.json")]


CUTS = [("cut", 100_000), ("cut", 50_000)]


@pytest.mark.parametrize(
    ("faults", "ignores_ranges", "known", "asked"),
    [
        ([], False, {}, [None]),
        (CUTS, False, {}, [None, "bytes=100000-", "bytes=150000-"]),
        # Without a digest and a length, the length that the server tells is expected.
        (CUTS, False, {"sha256": None, "size_bytes": None}, [None, "bytes=100000-", "bytes=150000-"]),
        ([("cut", 100_000), ("cut", 200_000)], True, {}, [None, "bytes=100000-", "bytes=200000-"]),
        ([("status", 503), ("status", 429), ("status", 500)], False, {}, [None] * 4),
    ],
    ids=[
        "at once",
        "a connection that breaks off",
        "of unknown length",
        "a server that ignores ranges",
        "a busy server",
    ],
)
def test_a_file_is_fetched_whole_continued_where_it_broke_and_leaves_nothing_beside_it(
    server, target, faults, ignores_ranges, known, asked
):
    (server.faults, server.ignores_ranges), steps = (list(faults), ignores_ranges), []
    fetched(server, target, on_progress=lambda *step: steps.append(step), **known)
    assert target.read_bytes() == CONTENT
    assert kept(target) == [target.name]
    assert steps[-1] == (SIZE, SIZE)
    assert ranges(server) == asked


@pytest.mark.parametrize("size_bytes", [None, SIZE])
@pytest.mark.parametrize("more", [b"", b"more"], ids=["complete", "too long"])
def test_of_a_part_that_is_complete_or_longer_no_byte_is_kept_but_the_files(server, target, size_bytes, more):
    target.with_name("weights.bin.part").write_bytes(CONTENT + more)
    fetched(server, target, size_bytes=size_bytes)
    assert target.read_bytes() == CONTENT
    if not more:
        # Without the length, the server's 416 tells that nothing is missing.
        assert ranges(server) == ([f"bytes={SIZE}-"] if size_bytes is None else [])


def test_what_another_process_left_is_continued(server, target):
    server.faults = [("cut", 70_000), *[("status", 503)] * 6]
    with pytest.raises(TransientError, match=r"503 .*70,000 bytes are here: run the command again"):
        fetched(server, target)
    assert not target.exists()
    fetched(server, target)
    assert target.read_bytes() == CONTENT
    assert ranges(server)[-1] == "bytes=70000-"


def test_a_part_of_other_bytes_is_refused_and_the_next_call_begins_anew(server, target):
    target.with_name("weights.bin.part").write_bytes(b"x" * 1_000)
    with pytest.raises(ConfigError, match=f"expected {SHA256}: it was not kept"):
        fetched(server, target)
    assert not kept(target)
    fetched(server, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("fault", [("page", 190), ("page", SIZE + 1)])
def test_a_page_in_place_of_the_file_is_refused_at_once_and_the_part_stays(server, target, fault):
    server.faults = [("cut", 100_000), fault]
    with pytest.raises(ConfigError, match=rf"has {fault[1]:,} bytes, expected 300,000: .*serves other bytes"):
        fetched(server, target)
    fetched(server, target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", "bytes=100000-"]


@pytest.mark.parametrize(("num_bytes", "found"), [(190, "has 190 bytes"), (2 * SIZE, "sends more bytes")])
def test_a_page_that_does_not_tell_its_length_leaves_nothing_that_is_continued(server, target, num_bytes, found):
    server.faults = [("chunked", num_bytes)]
    with pytest.raises(ConfigError, match=f"{found}, expected 300,000"):
        fetched(server, target)
    assert not kept(target)
    fetched(server, target)
    assert ranges(server) == [None, None]


def test_no_other_range_than_was_asked_for_is_put_behind_the_part(server, target):
    server.faults = [("cut", 100_000), ("early", 500)]
    # Neither a digest nor a length would tell: the host of a url gives none.
    fetched(server, target, sha256=None, size_bytes=None)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", None]


@pytest.mark.parametrize(
    ("fault", "told", "most"),
    [
        *((("status", status), f"the server answers {status}", 1) for status in (401, 403, 404)),
        # One attempt: the first request, and the redirects that the client follows.
        (("circle", 0), "redirects without end", 21),
    ],
)
def test_a_refusal_and_redirects_in_a_circle_are_told_at_once(server, target, fault, told, most):
    server.faults = [fault]
    with pytest.raises(ConfigError, match=told):
        fetched(server, target)
    assert len(server.requests) <= most


def test_a_redirect_to_an_address_where_clouds_give_credentials_is_refused(server, target):
    server.redirect = "http://169.254.169.254/latest/meta-data"
    with pytest.raises(ConfigError, match=r"a server redirects to 169\.254\.169\.254, a link-local address"):
        fetched(server, target)


def test_a_file_larger_than_the_disk_is_refused_before_it_fills_it(server, target, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_000}))
    with pytest.raises(ConfigError, match=r"needs 300,000 bytes, and .* has 1,000 free"):
        fetched(server, target)

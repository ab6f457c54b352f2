"""A file that is fetched comes with the right bytes, or not at all: over breaks, refusals, and other bytes."""

from __future__ import annotations

import functools
import hashlib
import random

import httpx2
import pytest

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.workers.checkpoints.download import fetch
from pseudoris.workers.checkpoints.published_weights import PublishedFile
from pseudoris.workers.checkpoints.weight_cache import WeightCache
from tests.builders.weight_server import serving_weights

CONTENT = random.Random(0).randbytes(300_000)
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/weights.bin"


@pytest.fixture(scope="module")
def client():
    """A client that reads the certificates once: each attempt makes one, in 20 ms."""
    return functools.partial(httpx2.Client, verify=httpx2.create_ssl_context())


@pytest.fixture
def server(client, monkeypatch):
    monkeypatch.setattr(httpx2, "Client", client)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with serving_weights() as server:
        server.files[PATH] = CONTENT
        yield server


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


def test_a_whole_file_gets_its_name_and_leaves_nothing_beside_it(server, target):
    steps = []
    fetched(server, target, on_progress=lambda *step: steps.append(step))
    assert target.read_bytes() == CONTENT
    assert kept(target) == [target.name]
    assert steps[-1] == (len(CONTENT), len(CONTENT))


CUTS = [("cut", 100_000), ("cut", 50_000)]


@pytest.mark.parametrize(
    ("faults", "ignores_ranges", "known", "asked"),
    [
        (CUTS, False, {}, [None, "bytes=100000-", "bytes=150000-"]),
        # Without a digest and a length, the length that the server tells is expected.
        (CUTS, False, {"sha256": None, "size_bytes": None}, [None, "bytes=100000-", "bytes=150000-"]),
        ([("cut", 100_000), ("cut", 200_000)], True, {}, [None, "bytes=100000-", "bytes=200000-"]),
        ([("status", 503), ("status", 429), ("status", 500)], False, {}, [None] * 4),
    ],
    ids=["a connection that breaks off", "of unknown length", "a server that ignores ranges", "a busy server"],
)
def test_a_file_is_fetched_whole_and_continued_where_it_broke(server, target, faults, ignores_ranges, known, asked):
    server.faults, server.ignores_ranges = list(faults), ignores_ranges
    fetched(server, target, **known)
    assert target.read_bytes() == CONTENT
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


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_told_at_once(server, target, status):
    server.faults = [("status", status)]
    with pytest.raises(ConfigError, match=f"the server answers {status}"):
        fetched(server, target)
    assert len(server.requests) == 1


def test_redirects_in_a_circle_are_told_at_once(server, target):
    server.faults = [("circle", 0)]
    with pytest.raises(ConfigError, match="redirects without end"):
        fetched(server, target)
    # One attempt: the first request, and the redirects that the client follows.
    assert len(server.requests) <= 21


def test_a_file_larger_than_the_disk_is_refused_before_it_fills_it(server, target, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_000}))
    with pytest.raises(ConfigError, match=r"needs 300,000 bytes, and .* has 1,000 free"):
        fetched(server, target)

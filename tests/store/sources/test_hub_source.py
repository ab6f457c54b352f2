"""A dataset of the Hub as SOURCE: its forms, its pinned commit, its versions, and what the Hub refuses."""

from __future__ import annotations

import pickle
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
from huggingface_hub import HfFileSystem, constants

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, ImageError, RefusedError, TransientError
from pseudoris.schemas.config import SourceConfig, StorageConfig
from pseudoris.store.runs.header import planned_source
from pseudoris.store.sources.proven_shard import open_root
from pseudoris.store.sources.source import open_source
from tests.builders.command import pseudoris_here
from tests.builders.hub import TOKEN, serving_hub, use_hub
from tests.builders.images import png
from tests.builders.sources import parquet_bytes, tar_bytes
from tests.store.builders import start_run

FILES = {f"photos/{number}.png": png(seed=number) for number in range(8)} | {
    "photos/a b#é%20.png": png(seed=9),
    "tars/t.tar": tar_bytes([("in tar.png", png(seed=10))]),
    "tables/t.parquet": parquet_bytes({"image": [{"bytes": png(seed=11), "path": "r.png"}]}),
    "README.md": b"# photographs",
}


@pytest.fixture
def hub(monkeypatch):
    with serving_hub() as hub:
        use_hub(hub, monkeypatch)
        hub.add("me/photos", FILES)
        yield hub


ONLY_READ = r"cannot be written: hf:// is only read.* --push OWNER/NAME"


def opened(uri, **options):
    return open_source(uri, SourceConfig(), limits=StorageConfig(patience_s=1, read_timeout_s=5), **options)


def keys(uri) -> list[str]:
    return [item.key for item in opened(uri).list()]


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("hf://datasets/me/photos", len(FILES) - 1),
        ("hf://datasets/me/photos/photos", 9),
        ("hf://datasets/me/photos/photos/3.png", ["3.png"]),
        ("hf://datasets/me/photos@main/photos/[01].png", ["0.png", "1.png"]),
        ("hf://datasets/me/photos/photos/{2,5}.png", ["2.png", "5.png"]),
        ("hf://datasets/me/photos/tars/t.tar", ["t.tar!in%20tar.png"]),
        ("hf://datasets/me/photos/tables", ["t.parquet!0"]),
    ],
)
def test_folders_files_globs_tars_and_tables_are_listed_page_by_page(hub, uri, found):
    listed = keys(uri)
    assert len(listed) == found if isinstance(found, int) else [key.replace("#", "!") for key in listed] == found


def test_every_image_is_read_with_its_bytes_by_one_request_without_a_token_for_the_store(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    source = opened("hf://datasets/me/photos/photos")
    listed = [file for file, _ in source.files()]
    root = pickle.loads(pickle.dumps(open_root(source.name, SourceConfig())))
    assert TOKEN.encode() not in pickle.dumps(root)
    hub.requests.clear()
    for file in listed:
        with root.open(file.path, file) as stream:
            assert stream.read() == FILES[f"photos/{file.path}"]
    asked = hub.sent("GET", "/resolve/")
    assert len(asked) == len(listed) == len(hub.requests) / 2
    assert {has_token for _, path, has_token in hub.requests if path.startswith("/cdn/")} == {False}


def test_a_process_lists_a_folder_once_for_all_its_readers(hub):
    source = opened("hf://datasets/me/photos/photos")
    listed = [file for file, _ in source.files()]
    HfFileSystem.clear_instance_cache()
    root = open_root(source.name, SourceConfig())

    def num_bytes(file) -> int:
        with root.open(file.path, file) as stream:
            return len(stream.read())

    hub.requests.clear()
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(num_bytes, listed)] == [file.size_bytes for file in listed]
    # Nine files, three a page.
    assert len(hub.sent("GET", "/photos?recursive=")) == 3
    assert len(hub.sent("GET", "/resolve/")) == len(listed)


def test_a_later_commit_changes_nothing_for_the_run_that_named_a_branch(hub):
    source = opened("hf://datasets/me/photos/photos/3.png")
    planned = next(source.files())[0]
    dataset = hub.add("me/photos", {"photos/3.png": png(seed=99)})
    assert source.name == f"hf://datasets/me/photos@{dataset.sha(1)}/photos/3.png"
    with open_root(source.name, SourceConfig()).open("3.png", planned) as stream:
        assert stream.read() == FILES["photos/3.png"]
    moved = open_root(opened("hf://datasets/me/photos/photos/3.png").name, SourceConfig())
    with pytest.raises(ImageError, match="the etag differs"), moved.open("3.png", planned) as stream:
        stream.read()


def test_a_network_that_ends_after_the_hub_has_answered_may_come_back(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    opened("hf://datasets/me/photos")
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    monkeypatch.setattr("socket.getaddrinfo", Mock(side_effect=unknown))
    with pytest.raises(TransientError, match="the Hub cannot be reached"):
        opened("hf://datasets/me/photos")


@pytest.mark.parametrize("revision", ["feature%2Fx", "refs/pr/1"])
def test_a_revision_may_have_a_slash(hub, revision):
    dataset = hub.add("me/photos", {"photos/3.png": png(seed=99)})
    dataset.branches |= {"feature/x": 1, "refs/pr/1": 1}
    assert (
        opened(f"hf://datasets/me/photos@{revision}/photos").name == f"hf://datasets/me/photos@{dataset.sha(1)}/photos"
    )


def test_a_token_that_no_header_can_hold_is_named(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_é")
    with pytest.raises(ConfigError, match=r"HF_TOKEN is not a token: set it anew, or run `hf auth login`"):
        opened("hf://datasets/me/photos")


def test_an_address_of_the_hub_with_credentials_is_refused_and_not_repeated(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", hub.url.replace("//", "//user:pw@"))
    for words in (
        ("status", "hf://datasets/me/photos"),
        ("annotate", "--preset=tiny", "hf://datasets/me/photos", "out", "--dry-run"),
    ):
        ended = pseudoris_here(*words)
        assert "HF_ENDPOINT holds a secret" in ended.stderr
        assert "pw@" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("given", "planned"),
    [
        ("hf://datasets/me/photos/a", "hf://datasets/me/photos@{sha}/a"),
        ("hf://datasets/me/photos@main/a", None),
        ("hf://datasets/me/photos/b", None),
        ("/photos", None),
    ],
)
def test_a_resume_that_names_no_revision_goes_on_with_the_commit_of_the_run(tmp_path, given, planned):
    sha = "0" * 39 + "f"
    header = start_run(RunLocation.open(str(tmp_path)), source=f"hf://datasets/me/photos@{sha}/a")
    assert planned_source(header, given) == (planned or given).format(sha=sha)


REFUSED = {
    "hf://datasets/me/none": "shows no dataset me/none to you. Check the name; if it is private, run `hf auth login`",
    "hf://datasets/me/private/a": "shows no dataset me/private to you",
    "hf://datasets/me/gated": "@main asks for consent: give it on http://[^ ]+/datasets/me/gated, then run `hf auth",
    "hf://datasets/me/photos@v9/a": "has no revision 'v9'",
    "hf://datasets/me/photos/none": "does not exist",
    "hf://datasets/photos": "is not the url of a dataset: give hf://datasets/OWNER/NAME",
    "hf://me/model": "is not the url of a dataset",
    "hf://datasets/me/photos/../..": "is not the url of a dataset",
}


@pytest.mark.parametrize("uri", REFUSED)
def test_what_the_hub_does_not_give_is_refused_with_the_remedy(hub, uri):
    hub.add("me/private", FILES, is_private=True)
    hub.add("me/gated", FILES, is_gated=True)
    hub.failures = [("me/gated/revision", 401, {"X-Error-Code": "GatedRepo"})]
    with pytest.raises(ConfigError, match=REFUSED[uri]):
        keys(uri)


def test_a_hub_that_is_busy_is_asked_again_and_one_that_is_down_never_costs_an_image(hub, monkeypatch, caplog):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.failures = [("/tree/", 429, {"Retry-After": "0"}), ("/tree/", 503, {})]
    assert len(keys("hf://datasets/me/photos/photos")) == 9
    source = opened("hf://datasets/me/photos/photos")
    file = next(source.files())[0]
    for status, error in ((503, TransientError), (401, RefusedError)):
        hub.failures = [("/cdn/", status, {})] * 6
        place = r"cannot read hf://datasets/me/photos@[0-9a-f]{40}/photos/0.png: the Hub"
        with pytest.raises(error, match=place), source.root.open(file.path, file) as stream:
            stream.read()
    assert "secret" not in caplog.text
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(TransientError, match=r"cannot open hf://datasets/me/photos@main: the Hub cannot be reached"):
        opened("hf://datasets/me/photos")


def read_first(source) -> bytes:
    file = next(source.files())[0]
    with source.root.open(file.path, file) as stream:
        return stream.read()


def wrong(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("place", ["photos/3.png", "plain/3.txt"])
def test_a_body_with_a_wrong_bit_is_asked_for_again_and_is_never_the_images_fault(hub, place):
    hub.add("me/photos", {"plain/3.txt": png(seed=3)})
    source = open_source(f"hf://datasets/me/photos/{place}", SourceConfig(format="files"))
    hub.harms = [wrong, lambda data: data[:-1]]
    assert read_first(source) == png(seed=3)
    hub.harms = [wrong] * 3
    with pytest.raises(TransientError, match="the Hub sent other bytes than it lists, 3 times"):
        read_first(source)


def test_an_answer_without_end_is_broken_off_at_the_bytes_that_were_asked_for(hub):
    source = opened("hf://datasets/me/photos/photos/3.png")
    hub.harms = [None]
    with pytest.raises(TransientError, match=r"the Hub sends more than the [0-9,]{3,6} bytes that were asked for"):
        read_first(source)


def test_a_listing_whose_pages_never_end_is_refused(hub):
    hub.has_end = False
    with pytest.raises(ConfigError, match="lists a folder in more than 1,000 pages, which is not the Hub"):
        keys("hf://datasets/me/photos/photos")
    assert len(hub.requests) < 1_100


def test_a_pause_that_a_server_asks_for_has_a_bound(hub, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    limit = {"RateLimit": '"api";r=0;t=99999999', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hub.failures = [("/tree/", 429, {"Retry-After": "1000000000"}), ("/tree/", 429, limit)]
    assert len(keys("hf://datasets/me/photos/photos")) == 9
    assert [pause for pause in pauses if pause > 5] == [301, 301]


@pytest.mark.parametrize("host", ["169.254.169.254", "0xa9fea9fe", "[fe80::1]"])
def test_a_redirect_to_an_address_where_clouds_give_credentials_is_refused(hub, host):
    source = opened("hf://datasets/me/photos/photos/3.png")
    hub.failures = [("/resolve/", 302, {"Location": f"http://{host}/latest/meta-data"})]
    with pytest.raises(ConfigError, match=r"a server redirects to .*, a link-local address, which is never asked"):
        read_first(source)


@pytest.mark.parametrize("words", [("annotate", "--preset=tiny", "photos"), ("export", "out")])
def test_a_command_that_would_write_to_a_dataset_is_refused_before_a_request(hub, words):
    ended = pseudoris_here(*words, "hf://datasets/me/none")
    assert re.search(ONLY_READ, ended.stdout + ended.stderr)
    assert not hub.requests


def test_a_run_that_the_hub_does_not_show_is_refused_with_the_remedy_and_nothing_is_written(hub):
    with pytest.raises(ConfigError, match=r"cannot look at .*: the Hub does not show it to you: check the name"):
        RunLocation.open_to_read("hf://datasets/me/none")
    with pytest.raises(ConfigError, match=ONLY_READ):
        RunLocation.open("hf://datasets/me/photos/out").probe()

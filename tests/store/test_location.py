from __future__ import annotations

import multiprocessing
import socket
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.store.files.local_storage import LocalStorage
from pseudoris.store.location import RunLocation


def create_keys(out: str, author: str, num_keys: int) -> list[int]:
    """Race for every key; return those won."""
    location = RunLocation.open(out)
    return [key for key in range(num_keys) if location.create_once(f"_receipts/{key}", author.encode())]


@pytest.fixture
def silent():
    """Yield an endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "nothing listens"])
def test_a_command_that_reads_is_told_of_a_dead_store_within_ten_seconds(
    silent, is_silent, s3_credentials, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent if is_silent else "http://127.0.0.1:9")
    began_s = time.monotonic()
    with pytest.raises(TransientError, match=r"cannot look at s3://bucket/run/_run\.json: "):
        RunLocation.open_to_read("s3://bucket/run")
    assert time.monotonic() - began_s < 10
    # A run has its long patience.
    assert RunLocation.open("s3://bucket/run")._storage.limits.patience_s == 300


def test_of_sixteen_threads_exactly_one_creates_each_key_and_its_content_stands(disk):
    with ThreadPoolExecutor(16) as pool:
        authors = [str(n) for n in range(16)]
        won = dict(zip(authors, pool.map(lambda author: create_keys(disk.root, author, 40), authors), strict=True))
    assert sorted(key for keys in won.values() for key in keys) == list(range(40))
    for author, keys in won.items():
        assert all(disk.read_bytes(f"_receipts/{key}") == author.encode() for key in keys)
    assert list(disk.list_temporary("_receipts")) == []


@pytest.mark.slow
def test_of_several_processes_exactly_one_creates_each_key(disk):
    authors = [str(n) for n in range(4)]
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        won = list(pool.map(create_keys, [disk.root] * 4, authors, [40] * 4))
    assert sorted(key for keys in won for key in keys) == list(range(40))


def test_a_part_of_equal_size_is_left_alone_and_another_size_is_replaced(location):
    location.put_part("masks/a", b"abc")
    location.put_part("masks/a", b"xyz")
    assert location.read_bytes("masks/a") == b"abc"
    location.put_part("masks/a", b"longer")
    assert location.read_bytes("masks/a") == b"longer"


def test_the_storage_tells_its_time_and_keeps_nothing(location):
    location.replace("a.txt", b"before")
    (before,) = (file.modified_s for file in location.list(""))
    now_s = location.clock_s()
    assert before <= now_s < before + 600
    assert [file.name for file in location.list("")] == ["a.txt"]


def test_a_store_that_ignores_the_condition_is_told(disk, monkeypatch):
    def overwrite(files, path, data):
        files.put(path, data)
        return True

    monkeypatch.setattr(LocalStorage, "create_once", overwrite)
    with pytest.raises(ConfigError, match="allowed a file to be created twice"):
        disk.probe()


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot create .*out/_run.json: a part of the path is a file"):
        RunLocation.open(str(tmp_path / "out")).create_once("_run.json", b"")


def test_a_folder_in_place_of_a_file_does_not_count_and_is_not_read(tmp_path):
    (tmp_path / "_run.json").mkdir()
    location = RunLocation.open(str(tmp_path))
    assert not location.exists("_run.json")
    with pytest.raises(ConfigError, match="it is a folder, but must be a file"):
        location.read_bytes("_run.json")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        *((out, "is not a complete location: give a bucket and a prefix") for out in ("s3://", "s3:///", "memory://")),
        ("s3://key:secret@bucket/run", "credentials before an @"),
        ("nosuch://bucket", "cannot open 'nosuch://bucket'"),
    ],
)
def test_a_uri_that_is_no_place_is_refused_and_is_no_folder_of_this_disk(out, said):
    with pytest.raises(ConfigError, match=said):
        RunLocation.open(out)


def test_addresses_are_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunLocation.open("run").uri("masks/a") == str(tmp_path / "run/masks/a")
    assert RunLocation.open(f"file://{tmp_path}/run").uri("masks/a") == str(tmp_path / "run/masks/a")
    assert RunLocation.open("memory://bucket/run/").uri("masks/a").endswith("bucket/run/masks/a")


@pytest.mark.parametrize(
    ("outer", "folder", "other", "holds"),
    [
        ("s3://b/run", "", "s3://b/run/", True),
        ("s3://b/run", "", "s3a://b/run/inner", True),
        ("s3://b/run", "", "s3://b/run2", False),
        ("s3://b/run", "images", "s3://b/run/images/pages", True),
        ("s3://b/run", "images", "s3://b/run/gallery", False),
        ("s3://b/run", "", "/b/run", False),
        ("/", "", "/b/run", True),
    ],
)
def test_a_place_holds_what_lies_in_it_and_not_what_its_name_begins(outer, folder, other, holds):
    assert RunLocation.open(outer).holds(RunLocation.open(other), folder) is holds

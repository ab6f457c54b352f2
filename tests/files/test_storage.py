"""What every storage promises: a disk, fsspec's memory store, and a real S3 server; and the keys of their files."""

from __future__ import annotations

import errno
import os
import pickle
import re
import uuid
from pathlib import Path
from unittest.mock import Mock

import fsspec
import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError
from hypothesis import example, given
from hypothesis import strategies as st

from pseudoris.files import key_order
from pseudoris.files.key_order import file_path, path_key, row_key, sorted_externally
from pseudoris.files.location import storage_at
from pseudoris.files.s3_requests import explained
from pseudoris.files.storage import (
    VERDICTS,
    ChangedError,
    NoBucketError,
    StoredFile,
    listing_errors,
    storage_errors,
    transient_faults,
    verdict_of,
)
from pseudoris.primitives.errors import ConfigError, ImageError, RefusedError, TransientError
from pseudoris.store.sources.patterns import ALL_FILES
from tests.builders.command import python_says
from tests.builders.locations import IMPATIENT


@pytest.fixture(params=["disk", "objects", "s3"])
def storage(request, tmp_path):
    """A storage of each kind, empty; the folder and the prefix have a space in their names."""
    if request.param == "disk":
        (tmp_path / "a set").mkdir()
        yield storage_at(str(tmp_path / "a set"))
    elif request.param == "s3":
        server = request.getfixturevalue("s3_server")
        yield storage_at(f"s3://{server.new_bucket()}/a set", server.endpoint_url, IMPATIENT)
    else:
        root = f"memory://bucket-{uuid.uuid4().hex}/a set"
        yield storage_at(root)
        fsspec.filesystem("memory").rm("/", recursive=True)


def walked(storage, may_descend=ALL_FILES.may_descend, exclude=None) -> list[str]:
    return [file.path for file in storage.walk(may_descend, exclude)]


def read_version(storage, expected: StoredFile) -> bytes:
    """Return the file as the plan of a run reads it: all of the expected version."""
    with storage.open_version(expected.path, expected) as file:
        return file.read(expected.size_bytes)


def test_what_was_put_is_read_whole_and_in_ranges(storage):
    storage.put("plan/part", b"0123456789")
    assert storage.read("plan/part") == b"0123456789"
    for window_bytes in (0, 4):
        with storage.open("plan/part", window_bytes=window_bytes) as file:
            assert file.seekable()
            file.seek(4)
            assert file.read(3) == b"456"
            file.seek(-2, 2)
            assert (file.read(), file.tell()) == (b"89", 10)


def test_a_second_put_replaces_and_a_second_creation_does_not(storage):
    storage.put("a", b"1")
    storage.put("a", b"two")
    assert not storage.create_once("a", b"three")
    assert storage.read("a") == b"two"
    assert storage.create_once("b", b"first")
    assert not storage.create_once("b", b"second")
    assert storage.read("b") == b"first"


@pytest.mark.parametrize("size_bytes", [0, 3, 6 * 2**20])
def test_a_file_of_this_disk_is_put_whole_in_the_place_of_another(storage, tmp_path, size_bytes):
    storage.put("exports/large", b"former")
    local = storage.temporary_path("exports/large") or tmp_path / "local"
    local.write_bytes(b"x" * size_bytes)
    storage.put_file("exports/large", local)
    assert storage.stat("exports/large").size_bytes == size_bytes
    assert storage.read("exports/large") == b"x" * size_bytes
    assert [file.name for file in storage.list("exports")] == ["large"]


def test_a_listing_holds_the_files_of_one_folder_and_not_of_those_below(storage):
    storage.put("masks/a", b"123")
    storage.put("masks/deeper/b", b"1")
    assert [(file.name, file.size_bytes) for file in storage.list("masks")] == [("a", 3)]
    assert [file.name for prefix in ("", "a", "ab") for file in storage.list("masks", name_prefix=prefix)] == ["a", "a"]
    assert list(storage.list("")) == []
    assert list(storage.list("nothing")) == []


def test_what_stands_at_a_path_is_told(storage):
    storage.put("set/a", b"123")
    assert [storage.kind(path) for path in ("", "set", "set/a", "nothing")] == ["folder", "folder", "file", None]
    assert storage.stat("set/a").size_bytes == 3


def test_a_missing_file_is_an_answer_and_a_folder_is_no_file(storage):
    storage.put("set/a", b"123")
    for path in ("nothing", "set"):
        with pytest.raises(FileNotFoundError):
            storage.stat(path)
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")
    with pytest.raises(FileNotFoundError), storage.open("nothing") as file:
        file.read()
    expected = StoredFile("nothing", 5)
    with pytest.raises(FileNotFoundError):
        read_version(storage, expected)


def test_deleting_what_is_not_there_is_no_error(storage):
    storage.put("a", b"1")
    storage.delete("a")
    storage.delete("a")
    assert list(storage.list("")) == []


def test_finished_writes_leave_nothing_unfinished(storage):
    storage.put("masks/a", b"1")
    storage.create_once("masks/b", b"1")
    assert list(storage.list_temporary("masks")) == []
    assert list(storage.list_uploads(re.compile(".*"))) == []


def test_files_are_walked_in_the_order_of_their_keys(storage):
    names = ["a.jpg", "a/b.jpg", "a-b.jpg", "é.jpg", "b c.jpg", "B.jpg", "a/é/x.jpg", "a/b/c/d.jpg", "z~.jpg"]
    for name in names:
        storage.put(name, b"1")
    assert walked(storage) == sorted(names, key=path_key) != sorted(names)


def test_folders_that_are_shut_and_the_excluded_one_are_not_walked(storage):
    for path in ("a.jpg", ".hidden/b.jpg", "out/images/c.jpg", "outer/d.jpg"):
        storage.put(path, b"1")
    assert walked(storage, exclude=storage.uri("out")) == ["a.jpg", "outer/d.jpg"]
    assert walked(storage, may_descend=lambda folder: False) == ["a.jpg"]


def test_a_file_is_described_alike_by_a_walk_and_by_a_look(storage):
    storage.put("set/c.jpg", b"12")
    (walked_file,) = storage.walk(ALL_FILES.may_descend)
    assert walked_file == storage.stat("set/c.jpg")
    assert walked_file.size_bytes == 2
    assert (walked_file.etag is None) != (walked_file.mtime_ns is None)


@pytest.mark.parametrize(("first", "second"), [(b"first", b"other"), (b"first", b"longer than it was"), (b"", b"!")])
def test_another_version_is_changed_and_the_same_one_is_read(storage, first, second):
    storage.put("a.jpg", first)
    expected = storage.stat("a.jpg")
    assert read_version(storage, expected) == first
    storage.put("a.jpg", second)
    with pytest.raises(ImageError, match="differs from the plan") as caught:
        read_version(storage, expected)
    assert caught.value.reason == "changed"


def test_a_file_that_is_replaced_while_it_is_read_is_changed(storage):
    size_bytes = 2**20
    storage.put("a.jpg", bytes(size_bytes))
    expected = storage.stat("a.jpg")

    def read_while_it_is_replaced() -> None:
        with storage.open_version("a.jpg", expected) as file:
            file.read(10)
            storage.put("a.jpg", b"x" * size_bytes)
            file.seek(size_bytes // 2)
            file.read(10)

    with pytest.raises(ImageError, match="differs from the plan"):
        read_while_it_is_replaced()


def test_a_version_of_which_nothing_is_known_is_any(storage):
    storage.put("a.jpg", b"12345")
    with storage.open_version("a.jpg", StoredFile("a.jpg", None)) as file:
        assert file.read() == b"12345"


def test_a_storage_travels_by_pickle(storage):
    storage.put("a", b"1")
    there = pickle.loads(pickle.dumps(storage))
    assert there.read("a") == b"1"
    assert there.uri("a") == storage.uri("a")


def test_a_disk_loads_no_client_of_buckets_or_of_the_web(tmp_path):
    code = (
        "import sys; from pseudoris.files.location import storage_at; storage_at('.'); "
        "print({'aiohttp', 'botocore'} & set(sys.modules))"
    )
    assert python_says(code, cwd=tmp_path) == "set()"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("été/猫.png", "%C3%A9t%C3%A9/%E7%8C%AB.png"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf%E9.jpg"),
        ("100%!#?.jpg", "100%25%21%23%3F.jpg"),
        ("a b~c-d_e.f", "a%20b~c-d_e.f"),
    ],
)
def test_keys_are_percent_encoded_bytes(path, key):
    assert path_key(path) == key
    assert file_path(key) == path


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name), st.text())
def test_every_path_comes_back_from_every_key(name, member):
    path = name.decode("utf-8", "surrogateescape")
    for key in (path_key(path), row_key(path, 3)):
        assert file_path(key) == path
        assert key.isascii()


@given(keys=st.lists(st.text(max_size=3), max_size=80), max_in_memory=st.integers(1, 90))
@example(keys=[f"{150 - n:03d}" for n in range(150)], max_in_memory=1)
def test_the_order_is_that_of_sorted_whatever_fits_into_memory(keys, max_in_memory):
    records = [(key, number) for number, key in enumerate(keys)]
    assert list(sorted_externally(records, max_in_memory=max_in_memory)) == sorted(records, key=lambda it: it[0])


def test_a_full_temporary_disk_is_the_users_to_mend(monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(key_order.pickle, "dump", Mock(side_effect=full))
    with pytest.raises(ConfigError, match=r"sort the listing on disk \(set TMPDIR to use another\).*the disk is full"):
        list(sorted_externally(((n,) for n in range(10)), max_in_memory=4))


DOCS = Path(__file__).parents[2] / "docs" / "records" / "reliability.md"
# The errors by number of the table in the docs, and the verdict of each row.
ROWS = [
    (name, verdict)
    for names, verdict in re.findall(
        r"^\| ((?:`E\w+`(?:, )?)+) \|.*\| `?(\w+)`? \|$", DOCS.read_text("utf-8"), re.MULTILINE
    )
    for name in re.findall(r"\w+", names)
]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "the disk is full: free space"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "mounted read-only"),
        (errno.EACCES, "access is denied"),
        (errno.ENOTDIR, "is a file, not a folder"),
        (errno.ENOTSUP, "does not support hard links"),
    ],
)
def test_what_the_user_must_mend_names_the_path_and_the_remedy(number, remedy):
    said = f"cannot write /out/masks/part: .*{remedy}"
    with pytest.raises(ConfigError, match=said), storage_errors("write", "/out/masks/part"):
        raise OSError(number, os.strerror(number))


def raise_in_a_run(error, faults=(OSError,)):
    with transient_faults("read", "/data/a.jpg", faults=faults):
        raise error


def raise_in_a_listing(error, faults=(OSError,)):
    with listing_errors("list", "/data", faults=faults):
        raise error


def test_a_missing_file_stays_an_answer():
    with pytest.raises(FileNotFoundError, match="gone"):
        raise_in_a_run(FileNotFoundError("gone"))
    with pytest.raises(FileNotFoundError, match="a part of the path is a file"):
        raise_in_a_run(NotADirectoryError("a part of the path is a file"))
    with pytest.raises(FileNotFoundError, match="a folder"):
        raise_in_a_run(IsADirectoryError("a folder"))
    with pytest.raises(FileNotFoundError, match="gone"):
        raise_in_a_listing(FileNotFoundError("gone"))


@pytest.mark.parametrize("raise_inside", [raise_in_a_run, raise_in_a_listing])
@pytest.mark.parametrize("error", [ImageError("changed", "ours"), MemoryError("ours")])
def test_our_own_errors_and_memory_pass(error, raise_inside):
    with pytest.raises(type(error), match="ours"):
        raise_inside(error, faults=(Exception,))


def test_the_table_of_errors_in_the_docs_is_the_one_in_the_code():
    assert ROWS
    assert {getattr(errno, name): verdict for name, verdict in ROWS} == VERDICTS


@pytest.mark.parametrize(("name", "verdict"), ROWS)
def test_an_error_while_an_image_is_read_means_what_the_docs_say(name, verdict):
    number = getattr(errno, name)
    with pytest.raises((FileNotFoundError, ImageError, TransientError)) as caught:
        raise_in_a_run(OSError(number, os.strerror(number)))
    kinds = {"missing": FileNotFoundError, "unreadable": ImageError, "denied": RefusedError, "store": TransientError}
    assert type(caught.value) is kinds[verdict]
    assert getattr(caught.value, "reason", verdict) == verdict


@pytest.mark.parametrize("raise_inside", [raise_in_a_run, raise_in_a_listing])
def test_the_text_of_a_client_is_not_repeated(raise_inside):
    with pytest.raises(TransientError, match="RuntimeError") as caught:
        raise_inside(RuntimeError("signed with hush"), faults=(Exception,))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("raise_inside", [raise_in_a_run, raise_in_a_listing])
def test_a_fault_of_our_own_code_on_a_disk_is_not_hidden(raise_inside):
    with pytest.raises(ZeroDivisionError, match="ours"):
        raise_inside(ZeroDivisionError("ours"))


def test_a_refusal_keeps_its_verdict_on_its_way_through_ray():
    error = pickle.loads(pickle.dumps(RefusedError("no", ImageError("missing", "no bucket"), any_store=True)))
    assert (str(error), error.any_store) == ("no", True)
    assert (error.failure.reason, error.failure.message) == ("missing", "no bucket")


def answered(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        *((404, "NoSuchKey", "missing"), (400, "KeyTooLongError", "unreadable")),
        *((403, code, "denied") for code in ("AccessDenied", "403")),
        *((403, code, "store") for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed")),
        (400, "InvalidToken", "store"),
    ],
)
def test_an_answer_has_the_verdict_of_the_docs(status, code, verdict):
    error = explained(answered(status, code), "read", "s3://b/x.png")
    assert isinstance(error, OSError)
    assert verdict_of(error) == verdict


NO_BUCKET = (
    *((404, "NoSuchBucket"), (400, "InvalidBucketName"), (301, "PermanentRedirect"), (307, "TemporaryRedirect")),
    *((301, "301"), (400, "400"), (400, "IllegalLocationConstraintException"), (400, "AuthorizationHeaderMalformed")),
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        *((answered(*each), NoBucketError) for each in NO_BUCKET),
        (ParamValidationError(report="Bucket"), NoBucketError),
        (NoCredentialsError(), ConfigError),
        (answered(412, "PreconditionFailed"), ChangedError),
    ],
    ids=repr,
)
def test_a_bucket_that_is_not_there_no_credentials_and_another_version_are_told_apart(error, kind):
    found = explained(error, "read", "s3://b c/x.png")
    assert type(found) is kind
    assert "s3://b c/x.png" in str(found)


def test_credentials_that_are_refused_are_named_with_a_remedy_before_a_run():
    error = explained(answered(403, "InvalidAccessKeyId"), "read", "s3://b/x.png")
    assert isinstance(error, PermissionError)
    assert error.errno == errno.EKEYREJECTED
    assert "InvalidAccessKeyId (HTTP 403)" in str(error)


@pytest.mark.parametrize(("header", "said"), [("x-amz-sdk-a", ", header x-amz-sdk-a"), ("a secret: hunter2", "")])
def test_a_request_that_the_store_does_not_implement_names_the_header_but_no_other_text_of_its_answer(header, said):
    refused = answered(501, "NotImplemented")
    refused.response["Error"] |= {"Header": header, "Message": "secret"}
    text = str(explained(refused, "write", "s3://b/x.png"))
    assert f"NotImplemented (HTTP 501{said})" in text
    assert "secret" not in text

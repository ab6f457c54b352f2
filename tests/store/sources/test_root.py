"""The root of SOURCE: the version that is read, and what an error means before a run and in its midst."""

from __future__ import annotations

import errno
import os

import pytest

from pseudoris.schemas.config import SourceConfig
from pseudoris.schemas.errors import ConfigError, ImageError, TransientError
from pseudoris.store.files.local_storage import LocalStorage
from pseudoris.store.sources.patterns import ALL_FILES
from pseudoris.store.sources.root import root_at


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"first")
    return root_at(str(tmp_path), SourceConfig())


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def test_another_version_of_what_was_listed_ends_the_listing(root, tmp_path):
    (listed,) = root.walk(ALL_FILES.may_descend)
    with root.open_listed(listed, window_bytes=0) as stream:
        assert stream.read() == b"first"
    (tmp_path / "a.jpg").write_bytes(b"second")
    with (
        pytest.raises(TransientError, match=r"a\.jpg changed while it was being listed"),
        root.open_listed(listed, window_bytes=0),
    ):
        pytest.fail("another version was opened")
    with pytest.raises(ImageError, match="differs from the plan"), root.open_version("a.jpg", listed):
        pytest.fail("another version was opened")
    (tmp_path / "a.jpg").unlink()
    with (
        pytest.raises(ConfigError, match=r"a\.jpg vanished while SOURCE was listed"),
        root.open_listed(listed, window_bytes=0),
    ):
        pytest.fail("no version was opened")


def test_a_tar_that_cannot_be_opened_is_named_with_its_remedy(root, tmp_path, monkeypatch):
    (tmp_path / "self.tar").symlink_to("self.tar")
    (tmp_path / "lost.tar").symlink_to("nowhere.tar")
    listed = {file.path: file for file in root.walk(ALL_FILES.may_descend)}
    monkeypatch.setattr(LocalStorage, "open", failing(errno.EACCES))
    for path, problem in {
        "self.tar": r"self\.tar cannot be opened \(its link leads to itself, .*remove it from SOURCE",
        "lost.tar": r"lost\.tar is a link that leads nowhere: repair it, or remove it from SOURCE",
        "a.jpg": r"access to .*a\.jpg is denied: grant .* or remove it from SOURCE",
    }.items():
        with pytest.raises(ConfigError, match=problem), root.open_listed(listed[path], window_bytes=0):
            pytest.fail("it was opened")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EIO])
def test_in_the_midst_of_a_run_every_fault_of_the_storage_is_transient(root, monkeypatch, number):
    expected = root.stat("a.jpg")
    for method in ("stat", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(LocalStorage, method, failing(number))
            with pytest.raises(TransientError, match=os.strerror(number)), root.open_version("a.jpg", expected):
                pytest.fail("it was opened")
    monkeypatch.setattr(LocalStorage, "open", failing(number))
    with pytest.raises(TransientError, match=os.strerror(number)), root.open("a.jpg"):
        pytest.fail("it was opened")


@pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (errno.EACCES, ConfigError, r"access to .* is denied"),
        (errno.ENAMETOOLONG, ConfigError, "the path is too long"),
        (errno.EIO, TransientError, "Input/output error"),
    ],
)
def test_before_a_run_what_the_user_must_mend_is_told(root, monkeypatch, number, error, text):
    for method, find in (("kind", lambda: root.kind("")), ("read", lambda: root.read("a.jpg"))):
        monkeypatch.setattr(LocalStorage, method, failing(number))
        with pytest.raises(error, match=text):
            find()
    monkeypatch.setattr(os, "scandir", failing(number))
    with pytest.raises(error, match=text):
        list(root.walk(ALL_FILES.may_descend))

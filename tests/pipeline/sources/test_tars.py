"""Members of WebDataset tars: which are images, and where their bytes stand."""

from __future__ import annotations

import gzip
import io
import os
import tarfile

import pytest

from pipeline.sources import open_source
from schemas.config import SourceConfig
from schemas.errors import ConfigError
from tests.builders.sources import tar_bytes


def listed(path):
    return list(open_source(str(path), SourceConfig()).list())


def test_members_come_in_the_order_of_the_tar_with_the_place_of_their_bytes(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("z.jpg", b"first"), ("z.json", b"{}"), ("d/a.PNG", b"second")]))
    items = listed(path)
    assert [item.key for item in items] == ["a.tar!z.jpg", "a.tar!d/a.PNG"]
    raw = path.read_bytes()
    assert [raw[item.offset_bytes :][: item.size_bytes] for item in items] == [b"first", b"second"]
    assert {item.boundary for item in items} == {"a.tar"}
    assert {item.mtime_ns for item in items} == {path.stat().st_mtime_ns}


def test_a_repeated_member_is_listed_twice(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("x.jpg", b"1"), ("x.jpg", b"22")]))
    assert [(item.key, item.size_bytes) for item in listed(path)] == [("a.tar!x.jpg", 1), ("a.tar!x.jpg", 2)]


def test_a_member_whose_name_would_escape_is_only_a_key(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("../../up.jpg", b"x"), ("/etc/abs.jpg", b"x")]))
    assert [item.key for item in listed(path)] == ["a.tar!../../up.jpg", "a.tar!/etc/abs.jpg"]


def test_a_member_name_that_is_not_utf8_is_kept_by_its_bytes(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(os.fsdecode(b"caf\xe9.jpg")), io.BytesIO())
    assert [item.key for item in listed(path)] == ["a.tar!caf%E9.jpg"]


def test_links_folders_and_hidden_members_are_no_images(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in [("soft.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE), ("dir.jpg", tarfile.DIRTYPE)]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("d/._x.jpg"), io.BytesIO())
        tar.addfile(tarfile.TarInfo("x.jpg"), io.BytesIO())
    assert [item.key for item in listed(path)] == ["a.tar!x.jpg"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:700],
        lambda whole: whole[: 512 + 1024 + 200],
        lambda whole: gzip.compress(whole),
        lambda whole: b"x" * 1024,
    ],
    ids=["in a member", "in a header", "compressed", "no tar"],
)
def test_a_damaged_tar_loses_nothing_in_silence(tmp_path, damage):
    path = tmp_path / "a.tar"
    path.write_bytes(damage(tar_bytes([("a.jpg", b"x" * 1024), ("b.jpg", b"y" * 1024)])))
    with pytest.raises(ConfigError, match=r"a\.tar cannot be listed as a tar .*: it must be whole and not compressed"):
        listed(path)

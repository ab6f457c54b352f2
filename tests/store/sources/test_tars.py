"""Members of WebDataset tars: which are images, and where their bytes stand."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc

import pytest

from pseudoris.schemas.config import SourceConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.sources import open_source
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
    with pytest.raises(
        ConfigError, match=r"a\.tar cannot be listed as a tar .*: it must be complete and not compressed"
    ):
        listed(path)


def header(name: str, size: bytes = b"%011o\0" % 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a tar header whose size field says anything."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def binary_size(size: int) -> bytes:
    """Return a size field as GNU writes it where octal digits do not suffice."""
    return b"\x80" + size.to_bytes(11) if size >= 0 else (256**12 + size).to_bytes(12)


def tar_settings(kind: bytes, settings: dict[str, str]) -> bytes:
    """Return an extended header: settings for the next member, or for all that follow."""
    return tarfile.TarInfo._create_pax_generic_header(settings, kind, "utf-8")


END = b"\0" * 1024
IMAGE = header("a.jpg", b"%011o\0" % 512) + b"x" * 512
HOSTILE = {
    "a member that ends before it begins": IMAGE + header("b.jpg", binary_size(-2048)),
    "a member of exabytes": header("b.jpg", binary_size(2**62)),
    "a member of more bytes than a number holds": header("b.jpg", binary_size(2**87)),
    "a long name of gigabytes": header("././@LongLink", binary_size(2**33), tarfile.GNUTYPE_LONGNAME) + IMAGE,
    "settings of exabytes": header("pax", binary_size(2**62), tarfile.XHDTYPE) + IMAGE,
    "settings of more bytes than memory has addresses": header("pax", binary_size(2**80), tarfile.XHDTYPE) + IMAGE,
    "settings upon settings": tar_settings(tarfile.XHDTYPE, {"comment": "x"}) * 2000 + IMAGE,
    "a size laid over the member's": tar_settings(tarfile.XHDTYPE, {"size": "4000000000"}) + IMAGE,
    "a negative size laid over the member's": tar_settings(tarfile.XHDTYPE, {"size": "-1024"}) + IMAGE,
    "the size of a sparse file that is none": tar_settings(tarfile.XHDTYPE, {"GNU.sparse.realsize": "9" * 30}) + IMAGE,
    "a sparse map without an end": tar_settings(tarfile.XHDTYPE, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    + header("a.jpg", b"%011o\0" % 512)
    + b"9999999999\n".ljust(512, b"1"),
    "a sparse map that is no numbers": tar_settings(tarfile.XHDTYPE, {"GNU.sparse.map": "a,b"}) + IMAGE,
    "settings for all by the thousand": b"".join(
        tar_settings(tarfile.XGLTYPE, {f"k{first + n}": "v" for n in range(400)}) + IMAGE for first in (0, 400, 800)
    ),
    "bytes behind its end that are no tar": IMAGE + b"\0" * 1024 + b"x" * 700 + b"\0" * 324,
    "a damaged header in the midst": IMAGE + header("b.jpg").replace(b"b.jpg", b"c.jpg") + IMAGE,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_tar_that_misleads_is_refused_at_little_cost(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content + END)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"a\.tar cannot be listed as a tar .* remove it from SOURCE"):
            listed(tmp_path / "a.tar")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 32 * 2**20


@pytest.mark.parametrize("padding", [0, 512, 10_240, 3 * 2**20], ids="{:,} bytes of zeros between".format)
def test_tars_behind_one_another_are_listed_to_the_last(tmp_path, padding):
    path, parts = tmp_path / "a.tar", [[("a.jpg", b"1"), ("b.jpg", b"22")], [], [("c.jpg", b"333"), ("d.jpg", b"4444")]]
    path.write_bytes((b"\0" * padding).join(map(tar_bytes, parts)))
    items, raw = listed(path), path.read_bytes()
    assert [item.key for item in items] == ["a.tar!a.jpg", "a.tar!b.jpg", "a.tar!c.jpg", "a.tar!d.jpg"]
    assert [raw[item.offset_bytes :][: item.size_bytes] for item in items] == [b"1", b"22", b"333", b"4444"]


def test_long_names_and_attributes_of_a_usual_size_are_read(tmp_path):
    settings = tar_settings(tarfile.XHDTYPE, {"SCHILY.xattr.user.note": "x" * 60_000, "path": f"{'d/' * 500}a.jpg"})
    (tmp_path / "a.tar").write_bytes(tar_settings(tarfile.XGLTYPE, {"comment": "y"}) + settings + IMAGE + END)
    (item,) = listed(tmp_path / "a.tar")
    assert (item.key, item.size_bytes) == (f"a.tar!{'d/' * 500}a.jpg", 512)

"""A row's uri leads to where it may, and nowhere else."""

from __future__ import annotations

import pytest

from pipeline.sources.row_uris import resolve_uri
from schemas.config import SourceConfig
from schemas.errors import ImageError


@pytest.mark.parametrize(
    ("uri", "uri_root", "full"),
    [
        ("a.jpg", None, "/data/meta/a.jpg"),
        ("sub/../a.jpg", None, "/data/meta/a.jpg"),
        ("/data/meta/x/a.jpg", None, "/data/meta/x/a.jpg"),
        ("file:///data/meta/a.jpg", None, "/data/meta/a.jpg"),
        ("images/a.jpg", "/data", "/data/images/a.jpg"),
        ("/data/images/a.jpg", "/data", "/data/images/a.jpg"),
        ("memory://bucket/a.jpg", None, "memory:///bucket/a.jpg"),
        ("a.jpg", "memory://bucket/set", "memory:///bucket/set/a.jpg"),
    ],
)
def test_a_uri_names_a_place_below_its_root_or_in_a_store(uri, uri_root, full):
    storage, path = resolve_uri(uri, "/data/meta/t.parquet", SourceConfig(uri_root=uri_root))
    assert storage.describe(path).replace("memory:///", "memory://") == full.replace("memory:///", "memory://")


@pytest.mark.parametrize(
    "uri",
    [
        "../a.jpg",
        "sub/../../a.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "file:///data/meta/../../etc/passwd",
        "/data/metabolism/a.jpg",
        "nul\0byte.jpg",
        "zip://x::file:///etc/passwd",
        "nope://bucket/a.jpg",
        "s3://key:hush@bucket/a.jpg",
        "https://host/a.jpg?X-Amz-Signature=hush",
    ],
)
def test_a_uri_that_leads_astray_is_refused_and_not_echoed(uri):
    with pytest.raises(ImageError, match="its uri") as caught:
        resolve_uri(uri, "/data/meta/t.parquet", SourceConfig())
    assert caught.value.reason == "refused_uri"
    assert "hush" not in caught.value.message
    assert "passwd" not in caught.value.message


def test_an_absolute_path_in_a_remote_table_is_refused():
    with pytest.raises(ImageError, match="leads out of"):
        resolve_uri("/etc/passwd", "memory://bucket/t.parquet", SourceConfig())

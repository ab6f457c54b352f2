"""Readers of a WebDataset export: the webdataset package over the tars, wids' rules over the index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import webdataset


def read_index(path: Path) -> list[dict]:
    """Return the shards of an index, asking of it what wids asks before it reads."""
    tree = json.loads(path.read_text("utf-8"))
    assert tree["wids_version"] == 1
    assert tree["shardlist"]
    for shard in tree["shardlist"]:
        file = path.parent / shard["url"]
        assert file.stat().st_size == shard["filesize"]
        assert hashlib.md5(file.read_bytes()).hexdigest() == shard["md5sum"]
    return tree["shardlist"]


def read_samples(root: Path) -> Iterator[dict]:
    """Yield the samples of all shards as the package groups them; of each field the bytes."""
    urls = [str(root / shard["url"]) for shard in read_index(root / "index.json")]
    yield from webdataset.WebDataset(urls, shardshuffle=False)

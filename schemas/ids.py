"""Ids and file names computed from content alone: another run, or a moved bucket, must give the same names.

Most rooms call it: `store` names parts and receipts by them; proposers, imports and recipes name masks.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

IMAGE_ID_HEX_DIGITS = 16  # 64 bits: at 50 million images a collision has a chance of about 1 in 15,000
CONTENT_HASH_HEX_DIGITS = 8
# How a shard's number and a generation are written. Each has one form only, so a copy of a receipt as
# `shard-000000042.g0.json` or `shard-00000042.g00.json` is no receipt.
EIGHT_DIGITS: Final = r"([0-9]{8}|[1-9][0-9]{8,})"
SHARD_NAME: Final = rf"shard-{EIGHT_DIGITS}\.g(0|[1-9][0-9]*)"
# A `part_name` has this form: shard, generation, and the first digits of the content's sha256.
PART_NAME: Final = re.compile(rf"{SHARD_NAME}-([0-9a-f]{{8}})\.parquet")


def image_id(key: str) -> str:
    """Return the id of an image: the first 64 bits of sha256 of its key, as 16 lower-case hex digits."""
    return hashlib.sha256(key.encode("utf-8")).hexdigest()[:IMAGE_ID_HEX_DIGITS]


def mask_id(image: str, index: int) -> str:
    """Return the id of a mask: its image's id and its index in the proposer's order from 0, `<image id>-0007`."""
    return f"{image}-{index:04d}"


def mask_index(mask: str) -> int:
    """Return a mask's index in the proposer's order, read from its id; ValueError if it is none."""
    return int(mask.rpartition("-")[2])


def sha256_hex(data: bytes) -> str:
    """Return the sha256 of `data` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def shard_name(shard: int, generation: int) -> str:
    """Return the stem of all files of one generation of a shard, `shard-00000042.g0`; `--retry-failed` raises it."""
    return f"shard-{shard:08d}.g{generation}"


def part_name(shard: int, generation: int, content_sha256: str) -> str:
    """Return a part's file name, `shard-00000042.g0-9f3a1c07.parquet`: equal content, equal name."""
    return f"{shard_name(shard, generation)}-{content_sha256[:CONTENT_HASH_HEX_DIGITS]}.parquet"

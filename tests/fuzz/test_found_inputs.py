"""Inputs that the fuzzer found, each built as small as it can be: they are read or refused at once."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from pseudoris.primitives.errors import PseudorisError
from tests.builders.images import png_of_header_only
from tests.fuzz.targets import TARGETS, run_files

HEADER, MANIFEST = "_run.json", "_manifest/0001.parquet"


def header_with(**changes: object) -> bytes:
    return json.dumps({**json.loads(run_files()[HEADER]), **changes}).encode()


def plan() -> bytes:
    return run_files()[min(name for name in run_files() if name.startswith("_plan/"))]


FOUND = {
    # Took 3 GB in the process of an export: Pillow decodes a PNG to look for EXIF behind its pixels.
    "images: a PNG of many pixels": ("images", lambda: png_of_header_only(12, 2**28)),
    # Was searched for links from each of its letters.
    "config: a long word": ("config", lambda: b"seed: " + b"a" * 250_000),
    "header: a long word": ("header", lambda: header_with(source="a" * 250_000)),
    "header: a long word in its configuration": (
        "header",
        lambda: header_with(config={"source": {"uri_root": "a" * 250_000}}),
    ),
    # Raised KeyError instead of being passed over.
    "manifest: another name of a column": (
        "manifest",
        lambda: run_files()[MANIFEST].replace(b"masks_part_name", b"masks_part_mane"),
    ),
    "manifest: a count of another name": (
        "manifest",
        lambda: run_files()[MANIFEST].replace(b"generation", b"generatiom"),
    ),
    # Raised TypeError.
    "plan: another name of a column": ("plan", lambda: plan().replace(b"image_id", b"imageeid")),
    # Took the 2 GB that a text claims, in a checkpoint of the form before torch 1.6.
    "checkpoint: a long text": ("checkpoint", lambda: b"\x80\x02X\xff\xff\xff\x7fa."),
    # Raised ValueError: more digits than Python turns into a number.
    "config: a long number": ("config", lambda: b"seed: " + b"7" * 5_000),
}
# Ended in RecursionError.
NESTED = {"brackets": b"[" * 100_000, "keys": b'{"a":' * 100_000}
FOUND |= {f"{target}: {name}": (target, lambda name=name: NESTED[name]) for target in TARGETS for name in NESTED}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_mended(name, tmp_path):
    target, build = FOUND[name]
    with suppress(PseudorisError):
        TARGETS[target].prepare(tmp_path)(build())

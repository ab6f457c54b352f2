"""Damaged files never crash, hang or fill the process that reads them, and end in one of the project's errors.

The same inputs every time; `python -m tests.fuzz.fuzzer` tries others.
"""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from pseudoris.primitives.errors import PseudorisError
from tests.builders.images import png_of_header_only
from tests.fuzz import broken_targets
from tests.fuzz.fuzzer import fuzz
from tests.fuzz.targets import TARGETS, run_files

SEED = 20
# What takes about 15 s each on two cores that others use.
NUM_INPUTS = {
    **{"images": 3_000, "tar": 4_000, "parquet": 4_000, "coco": 3_000, "refer": 4_000, "config": 300},
    **{"gref": 3_000, "reason": 3_000, "studio": 3_000},
    **{"human": 3_000, "human refs": 3_000},
    **{"header": 800, "receipt": 300, "manifest": 150, "plan": 200, "checkpoint": 500, "safetensors": 400},
}


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_damaged_input_is_read_or_refused(name, tmp_path):
    print(f"seed {SEED}: {NUM_INPUTS[name]:,} inputs of {name}")
    report = fuzz(f"tests.fuzz.targets:{name}", TARGETS[name], tmp_path, num_inputs=NUM_INPUTS[name], seed=SEED)
    # Otherwise nothing behind the first check would be tried.
    assert [answer for answer in report.sound if answer["kind"] != "read"] == []
    again = f"python -m tests.fuzz.fuzzer {name} --replay FILE"
    assert not report.findings, f"seed {SEED}; {again}\n" + "\n".join(map(str, report.findings))


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(broken_targets.TARGETS))
def test_a_broken_reader_is_found_and_its_input_is_kept(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fuzz.fuzzer.TIMEOUT_S", 2.0)
    report = fuzz(f"tests.fuzz.broken_targets:{kind}", broken_targets.TARGETS[kind], tmp_path, num_inputs=2, seed=SEED)
    (finding,) = report.findings
    assert finding.kind == kind
    assert finding.path.read_bytes() == kind.encode()
    assert str(finding.path) in str(finding)
    assert report.counts[kind] == 2


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

"""Damaged files never crash, hang or fill the process that reads them, and end in one of the project's errors.

The same inputs every time; `python -m tests.fuzz.fuzzer` tries others.
"""

from __future__ import annotations

import pytest

from tests.fuzz import broken_targets
from tests.fuzz.fuzzer import fuzz
from tests.fuzz.targets import TARGETS

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

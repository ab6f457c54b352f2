"""A process that is watched is seen to grow, to work and to fail."""

import subprocess

import pytest

from benchmarks.process_watch import Usage, run_watched

GROWING = """
import json, time
start = time.monotonic()
time.sleep(0.5)
held = bytearray(150_000_000)
grown = time.monotonic()
while time.process_time() < 1.0:
    pass
time.sleep(0.3)
print("talk before the answer")
print(json.dumps({"start_s": start, "grown_s": grown, "end_s": time.monotonic()}))
"""


@pytest.mark.slow
def test_a_process_is_seen_to_grow_and_to_work(tmp_path):
    (tmp_path / "growing.py").write_text(GROWING)
    watched = run_watched("growing", [], {"PYTHONPATH": str(tmp_path)})
    before = watched.between(watched.answer["start_s"], watched.answer["start_s"] + 0.4)
    after = watched.between(watched.answer["grown_s"], watched.answer["end_s"])
    assert after[-1].driver.rss_bytes - before[0].driver.rss_bytes == pytest.approx(150e6, rel=0.1)
    assert after[-1].driver.cpu_s == pytest.approx(1.0, abs=0.3)
    assert after[-1].head == Usage()


def test_a_process_that_fails_is_an_error(tmp_path):
    (tmp_path / "failing.py").write_text("raise SystemExit(3)")
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        run_watched("failing", [], {"PYTHONPATH": str(tmp_path)})

"""The GPU benchmark, as far as it runs where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pseudoris.schemas.config_layers import load_config

ROOT = Path(__file__).parents[2]
# What a bare GPU machine has not, and the engines must not ask for.
ABSENT = ["ray", "s3fs", "typer", "jinja2"]


@pytest.mark.long
def test_it_runs_on_a_cpu_without_ray_and_writes_the_devices_name(tmp_path):
    blocker = (
        "import sys, runpy\n"
        f"sys.modules.update(dict.fromkeys({ABSENT}))\n"
        "sys.argv = ['gpu', *sys.argv[1:]]\n"
        "runpy.run_module('benchmarks.gpu', run_name='__main__')\n"
    )
    path = tmp_path / "rows.json"
    little = ["--device", "cpu", "--tiny", "--repeats", "1", "--json", str(path), "--sweep", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", blocker, *little], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text(encoding="utf-8"))
    keys = {"case", "baseline_s", "ours_s", "ratio", "utilisation", "rate", "device", "note"}
    keys |= {"num_waits", "peak_bytes", "peak_rss_bytes"}
    assert all(row.keys() == keys for row in rows)
    parts = ["captions", "captions", "masks", "masks", "all stages", *["sweep"] * 6]
    assert [row["case"].split(",")[0] for row in rows] == parts
    assert {row["device"] for row in rows} == {"cpu, 1 threads"}
    assert "in float64 all of 3 masks, 6 steps" in rows[0]["note"]
    assert "images/s" in rows[4]["note"]
    assert load_config("tiny", tmp_path / "tiny.yaml").compute.precision == "bfloat16"
    for row in rows:
        assert row["case"] in done.stdout

"""docs/guides/cluster.md: the blocks that one machine can run, as they stand, on a cluster that asks for a token."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders.command import pseudoris, wait_for
from tests.builders.head import ROOT, end_all_with, free_ports, ray_from
from tests.builders.runs import SMALL, STUBS, write_source

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

PAGE = (ROOT / "docs" / "guides" / "cluster.md").read_text(encoding="utf-8")
SETTINGS = " ".join(f"--set {each}" for each in (*STUBS, *SMALL))
# A shell's first line, as the page has it.
TOKEN = "export RAY_AUTH_MODE=token\n"
HOLDER = """
import ray, time
ray.init(address='127.0.0.1:6379', log_to_driver=False)
hold = ray.remote(num_cpus=1)(lambda: time.sleep(300))
held = [hold.remote(), hold.remote()]
while ray.available_resources().get('CPU'): time.sleep(0.1)
print('held', flush=True)
time.sleep(300)
"""
# Two nodes of one CPU each, on one machine: the second has other ports.
RAY = """#!/bin/bash
more=()
if [ "$1" = start ]; then
    more=(--num-cpus=1 --object-store-memory=200000000 --disable-usage-stats)
    if [ "$2" = --head ]; then more+=({head}); else more+=({other}); fi
fi
exec {ray} "$@" "${{more[@]}}"
"""
SRUN = """#!/bin/bash
while true; do case "$1" in -w) shift 2 ;; --*) shift ;; *) break ;; esac; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" > ~/requeued; else echo 127.0.0.1; fi
"""


@dataclass(frozen=True)
class Machine:
    """A machine that knows no token yet, with the commands of the page on its path; `words` of the page are its own."""

    home: Path
    words: Mapping[str, str]
    environment: Mapping[str, str]

    def start(self, block: str, **other_words: str) -> subprocess.Popen[str]:
        """Start a block of the page in a shell of its own, which ends with the code of its last command."""
        for word, ours in {**self.words, **other_words}.items():
            block = block.replace(word, ours)
        pipe = subprocess.PIPE
        return subprocess.Popen(
            ["bash", "-c", block], stdout=pipe, stderr=subprocess.STDOUT, text=True, env=self.environment, cwd=self.home
        )

    def run(self, block: str, **other_words: str) -> str:
        process = self.start(f"set -e\n{block}", **other_words)
        printed, _ = process.communicate(timeout=180)
        assert process.returncode == 0, printed
        return printed


@pytest.fixture
def machine() -> Iterator[Machine]:
    home = Path(tempfile.mkdtemp(prefix="pc-", dir="/tmp"))
    ports = dict(zip("gdacmno", map(str, free_ports(7)), strict=True))
    head = "--dashboard-port={d} --dashboard-agent-listen-port={a} --ray-client-server-port={c}"
    other = "--dashboard-agent-listen-port={n} --metrics-export-port={o}"
    ray = " ".join(ray_from(home))
    scripts = {"ray": RAY.format(ray=ray, head=head.format(**ports), other=other.format(**ports))}
    (home / "bin").mkdir()
    for name, text in {**scripts, "srun": SRUN, "scontrol": SCONTROL}.items():
        (home / "bin" / name).write_text(text)
        (home / "bin" / name).chmod(0o755)
    words = {
        "6379": ports["g"],
        "8265": ports["d"],
        "8080": ports["m"],
        " HEAD:": " 127.0.0.1:",
        "=HEAD:": "=127.0.0.1:",
        "--preset base": "--preset tiny",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "PATH": f"{home}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "tests" / "plugins"),
        "HOME": str(home),
        "RAY_TMPDIR": str(home),
        "SLURM_JOB_NODELIST": "a,b",
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "17",
        "COLUMNS": "400",
    }
    try:
        yield Machine(home, words, environment)
    finally:
        end_all_with(f"HOME={home}")
        shutil.rmtree(home, ignore_errors=True)


def nodes(status: str) -> list[str]:
    return re.findall(r"^ 1 (node_\w+)", status, re.MULTILINE)


def blocks(section: str) -> list[str]:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_a_cluster_that_stands_runs_a_command_and_a_job_and_says_when_no_cpu_is_free(machine, tmp_path):
    source = str(write_source(tmp_path / "in", num_images=6))
    head, other, work = blocks("An existing cluster")
    machine.run(head)
    machine.run(other)
    wait_for(lambda: len(nodes(machine.run(f"{TOKEN}ray status --address HEAD:6379"))) == 2)
    outs = {f"s3://bucket/run-{number}/": f"{tmp_path}/run-{number} {SETTINGS}" for number in (7, 8)}
    printed = machine.run(f"{TOKEN}{work}", **{"s3://bucket/images/": source}, **outs)
    assert len(nodes(printed)) == 2
    assert all(pseudoris("verify", str(tmp_path / f"run-{number}")).returncode == 0 for number in (7, 8))

    holder = machine.start(f'{TOKEN}python -c "{HOLDER}"')
    assert "held" in next(line for line in holder.stdout if "held" in line)
    dry = machine.start(
        f"{TOKEN}pseudoris annotate --preset tiny {source} {tmp_path}/new --address HEAD:6379 --dry-run {SETTINGS}"
    )
    said = next((line for line in dry.stdout if "CPUs free" in line), "")
    assert "has 0 of its 2 CPUs free" in said
    time.sleep(1)
    assert dry.poll() is None, "it did not wait"
    holder.terminate()
    assert "nothing was written" in dry.communicate(timeout=60)[0]


def test_under_slurm_a_run_out_of_time_is_requeued(machine, tmp_path):
    source, out = write_source(tmp_path / "in", num_images=18), tmp_path / "run"
    (block,) = blocks("Slurm")
    slow = f"{out} {SETTINGS} --set 'masks.options={{sleep_s: 1.5}}'"
    # At the end of the allocation Slurm ends what runs in it.
    batch = machine.start(f"{block}\nkill %1 %2; wait", **{"/data/images": str(source), "/data/run-7": slow})
    wait_for(lambda: any(out.glob("_receipts/*.json")), timeout_s=120)
    batch.send_signal(signal.SIGTERM)
    printed, _ = batch.communicate(timeout=120)
    assert "to resume run the same command again" in printed
    assert (machine.home / "requeued").read_text() == "17\n"


def test_under_slurm_the_wait_for_nodes_ends_and_shows_what_ray_says(machine):
    (block,) = blocks("Slurm")
    (machine.home / "bin" / "srun").write_text("#!/bin/bash\n")
    batch = machine.start(block, **{" 300 ": " 1 "})
    printed, _ = batch.communicate(timeout=120)
    assert batch.returncode == 3
    assert "not 2 nodes within 1 s" in printed
    assert re.search(r"Ray|GCS", printed), printed

"""Trials without a kill: hostile files, large folders and tars, sources that change, disks that turn read-only.

`trials.py` runs them after the commands that it kills.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from pseudoris.files.location import RunLocation
from pseudoris.schemas.tables import FAILURES, IMAGES
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.images import png
from tests.builders.runs import write_source
from tests.faults import hostile_files as hostile
from tests.faults.trials import annotation, differences, files_result, finish, run_result, start
from tests.fuzz.fuzzer import Reader

Row = dict[str, Any]

_MANY: Final = 100_000
# ext4 allows 65,000 links to a file.
_LINKS: Final = 10_000
_TAR_IMAGES: Final = 20_000
# Children of the process inherit it.
_ON_ONE_PROCESSOR: Final = """
import os, runpy
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
runpy.run_module("pseudoris", run_name="__main__", alter_sys=True)
"""


def _row(tried: str, outcome: str, problems: Iterable[str] = (), times: int = 1) -> Row:
    told = "; ".join(problems)
    return {"tried": tried, "times": times, "outcome": told or outcome, "ok": not told}


def many_files(at: Path) -> Row:
    _link_many(at / "images")
    said = finish(start(annotation("--dry-run"), at))
    is_planned = re.search(rf"images +{_MANY:,} ", said) and not (at / "run").exists()
    return _row("100,000 files in one folder, `--dry-run`", "all planned", [] if is_planned else [said])


def _link_many(folder: Path) -> None:
    folder.mkdir()
    for number in range(_MANY):
        first = folder / f"{number - number % _LINKS:06d}.png"
        if number % _LINKS:
            os.link(first, first.with_name(f"{number:06d}.png"))
        else:
            first.write_bytes(png(seed=number))


def killed_plan(at: Path) -> Row:
    """Plan 100,000 images, and kill the driver once the plan stands; the next one takes the plan as it is."""
    _link_many(at / "images")
    words = annotation("--shard-size", "1000", options="masks.options={}")
    _kill_once_there(words, at, "_run.json")
    plan = files_result(at / "run" / "_plan")
    _kill_once_there(words, at, "_receipts/shard-*.json")
    told = finish(start(["status", "run"], at))
    problems = [] if files_result(at / "run" / "_plan") == plan and "100,000" in told else [told]
    return _row(f"a plan of {_MANY:,} keys, its driver killed", "the next driver works by the same plan", problems)


def _kill_once_there(words: list[str], at: Path, pattern: str) -> None:
    process = start(words, at)
    _wait_for(pattern, process, at)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def large_tar(at: Path) -> Row:
    """Plan a tar of 1 GB with 20,000 images that do not compress, annotate 200 of them, then all, with a kill."""
    data = png(130, 130)
    with tarfile.open(at / "images.tar", "w") as tar:
        for number in range(_TAR_IMAGES):
            member = tarfile.TarInfo(f"{number:05d}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    words = annotation("--shard-size", "200", source="images.tar", options="masks.options={}")
    planned = finish(start([*words, "--dry-run"], at))
    problems = [] if f"{_TAR_IMAGES:,}" in planned and not (at / "run").exists() else [f"--dry-run: {planned}"]
    finish(start([*words, "--limit", "200"], at))
    rows = Counter(what.partition(" ")[0] for what in run_result(at / "run"))["image"]
    problems += [] if rows == 200 else [f"--limit 200 left {rows} rows"]
    shutil.rmtree(at / "run")
    _kill_once_there(words, at, "_receipts/shard-0000002*.json")
    finish(start(words, at))
    result = run_result(at / "run")
    rows = sum(value == 1 for what, value in result.items() if what.startswith("image "))
    problems += [] if rows == _TAR_IMAGES and not result["verify"] else [f"{rows} rows, {result['verify']}"]
    mb = (at / "images.tar").stat().st_size // 10**6
    tried = f"a tar of {mb:,} MB, {_TAR_IMAGES:,} images: `--dry-run`, `--limit 200`, a kill, the same command again"
    return _row(tried, "each image has one row, `verify` clean", problems)


def one_processor(at: Path) -> Row:
    write_source(at / "images", 40)
    finish(start(annotation(), at))
    expected = run_result(at / "run")
    shutil.rmtree(at / "run")
    finish(start(annotation(), at, ("-c", _ON_ONE_PROCESSOR)))
    return _row("`annotate` on one processor", "as undisturbed", differences(expected, run_result(at / "run")))


def changing_source(at: Path) -> Row:
    """Rewrite, delete and add files while a run reads them."""
    images = write_source(at / "images", 60)
    before = files_result(images)
    process = start(annotation(), at)
    _wait_for("_receipts/shard-*.json", process, at)
    files = sorted(images.rglob("image-*.png"))
    rewritten, deleted = files[1::5], files[3::5]
    for number, path in enumerate(rewritten):
        path.write_bytes(png(11, 11, seed=1_000 + number))
    for path in deleted:
        path.unlink()
    for number in range(10):
        (images / f"added-{number}.png").write_bytes(png(seed=2_000 + number))
    finish(process)
    after, result = files_result(images), run_result(at / "run")
    told = finish(start(annotation(), at))
    table = OpenRun.at(RunLocation.open(str(at / "run"))).table(IMAGES).to_pylist()
    failures = OpenRun.at(RunLocation.open(str(at / "run"))).table(FAILURES).to_pylist()
    reasons = Counter(row["reason"] for row in failures)
    read = [row for row in table if row["status"] != "quarantined"]
    problems = [
        f"{row['key']} has two states"
        for row in read
        if row["sha256"] not in (before.get(row["key"]), after.get(row["key"]))
    ]
    problems += [f"LOST {key}" for key in before.keys() - {row["key"] for row in table}]
    problems += [
        f"not told: {reason}" for reason in ("changed", "missing") if not reasons[reason] or reason not in told
    ]
    problems += [f"`verify`: {result['verify']}"] if result["verify"] else []
    problems += differences(result, run_result(at / "run"))
    tried = (
        f"of {len(before)} images {len(rewritten)} rewritten and {len(deleted)} deleted while they are read, 10 added"
    )
    outcome = "each is annotated from one state, or `changed` or `missing`; a second start says so, and changes nothing"
    return _row(tried, outcome, problems)


def _wait_for(pattern: str, process: subprocess.Popen[str], at: Path) -> None:
    while process.poll() is None and not list((at / "run").glob(pattern)):
        time.sleep(0.01)


def read_only_output(at: Path) -> Row:
    """Turn the output's disk read-only after the first commit, then back."""
    return _remounted(at, "read-only in the middle, then writable", "ro", "rw", told="mounted read-only")


def used_up_inodes(at: Path) -> Row:
    """Take the inodes of the output's disk after the first commit, then give it more."""
    few, many = "nr_inodes={used}", "nr_inodes=100k"
    return _remounted(at, "without inodes in the middle, then with", few, many, told="No space left on device")


def _remounted(at: Path, what: str, broken: str, mended: str, *, told: str) -> Row:
    tried = f"output on a disk that is {what}"
    if os.geteuid():
        return _row(tried, "SKIPPED: only root may mount a file system", times=0)
    write_source(at / "images", 40)
    finish(start(annotation(), at))
    expected, out = run_result(at / "run"), str(at / "run")
    shutil.rmtree(out)
    (at / "run").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", out], check=True)
    try:
        process = start(annotation(), at)
        _wait_for("_receipts/shard-*.json", process, at)
        # Refused while a file is open for writing, or if one was made since the inodes were counted.
        while (
            process.poll() is None
            and subprocess.run(
                ["mount", "-o", f"remount,{broken.format(used=_used_inodes(out))}", out],
                stderr=subprocess.DEVNULL,
                check=False,
            ).returncode
        ):
            time.sleep(0.005)
        said = process.communicate()[0]
        subprocess.run(["mount", "-o", f"remount,{mended}", out], check=True)
        problems = [] if process.returncode and told in said else [f"{process.returncode}: {said}"]
        finish(start(annotation(), at))
        problems += differences(expected, run_result(at / "run"))
    finally:
        subprocess.run(["umount", "--lazy", out], check=True)
    return _row(
        tried, f"exit code {process.returncode} with the remedy; the same command ends as undisturbed", problems
    )


def _used_inodes(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_files - found.f_ffree


def hostile_files(at: Path) -> Row:
    """Give small files that somebody made to harm to the readers of strangers' files, in a process with limits."""
    canary, truths = at / "canary", hostile.truths()
    parquet = {name: build() for name, build in hostile.tables("image", [png(), png(seed=1)]).items()}
    files = {"refer": hostile.pickles(canary), "coco": hostile.cocos(), "parquet": parquet}
    kinds, problems = Counter[str](), list[str]()
    for target, inputs in {**files, "header": truths, "receipt": truths}.items():
        with Reader(f"tests.fuzz.targets:{target}") as reader:
            for name, data in inputs.items():
                kind = reader.read(data)["kind"]
                kinds[kind] += 1
                problems += [] if kind in ("read", "refused") else [f"{target}, {name}: {kind}"]
    problems += ["code of a pickle ran"] if canary.exists() else []
    outcome = f"{kinds['refused']} refused, {kinds['read']} read, each within 10 s and 512 MB; no code ran"
    return _row("hostile pickles, COCO files, Parquet tables and JSON", outcome, problems, kinds.total())


SINGLE_TRIALS: Final[dict[str, Callable[[Path], Row]]] = {
    "hostile files": hostile_files,
    "many files": many_files,
    "killed plan": killed_plan,
    "large tar": large_tar,
    "one processor": one_processor,
    "changing source": changing_source,
    "read-only output": read_only_output,
    "used-up inodes": used_up_inodes,
}

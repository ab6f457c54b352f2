"""Trials of one start or two each: large folders and tars, sources that change, disks that turn read-only.

`trials.py` runs them after the commands that it kills.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import resource
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pseudoris.schemas.tables import FAILURES, IMAGES
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.committed_tables import read_table
from tests.builders.images import png
from tests.builders.runs import write_source
from tests.faults.trials import Command, annotation, differences, run_result

_MANY: Final = 100_000
# ext4 allows 65,000 links to a file.
_LINKS: Final = 10_000
_TAR_IMAGES: Final = 1_000
_MB: Final = 10**6
_DEADLINE_S: Final = 600.0
_SLOW: Final = "masks.options={sleep_s: 0.1}"

Row = dict[str, Any]


def _row(tried: str, how: str, outcome: str, *, ok: bool) -> Row:
    return {"tried": tried, "how": how, "times": 1, "outcome": outcome, "ok": ok}


def _start(at: Path, *words: str, options: str = _SLOW) -> subprocess.Popen[str]:
    command = Command("", annotation(*words, options=options), lambda folder: None, "run", run_result)
    return command.start(at)


def _end(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=_DEADLINE_S)[0]


def many_files(at: Path) -> Row:
    """Plan 100,000 files of one folder."""
    (at / "images").mkdir()
    for number in range(_MANY):
        first = at / "images" / f"{number - number % _LINKS:06d}.png"
        if number % _LINKS:
            os.link(first, at / "images" / f"{number:06d}.png")
        else:
            first.write_bytes(png(seed=number))
    began = time.monotonic()
    process = _start(at, "--dry-run")
    said = _end(process)
    mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 // _MB
    ok = process.returncode == 0 and f"{_MANY:,} images" in said and not (at / "run").exists()
    outcome = f"100,000 planned in {time.monotonic() - began:.0f} s" if ok else f"code {process.returncode}: {said}"
    return _row("100,000 files in one folder, `--dry-run`", f"hard links; {mb} MB at most", outcome, ok=ok)


def large_tar(at: Path) -> Row:
    """Annotate a tar of 1 GB: 1,000 images that do not compress."""
    data = png(590, 590)
    with tarfile.open(at / "images", "w") as tar:
        for number in range(_TAR_IMAGES):
            member = tarfile.TarInfo(f"{number:04d}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (at / "images").rename(at / "images.tar")
    began = time.monotonic()
    words = [
        "images.tar" if word == "images" else word
        for word in annotation("--shard-size", "50", options="masks.options={}")
    ]
    process = Command("", words, lambda folder: None, "run", run_result).start(at)
    said = _end(process)
    ok = process.returncode == 0
    rows = _rows(at) if ok else Counter()
    ok = ok and len(rows) == _TAR_IMAGES and not run_result(at / "run")["verify"]
    size_mb = (at / "images.tar").stat().st_size // _MB
    outcome = f"1,000 images in {time.monotonic() - began:.0f} s, `verify` clean" if ok else said[-2000:]
    return _row("a tar of 1 GB", f"{size_mb:,} MB of 1,000 images that do not compress", outcome, ok=ok)


def _rows(at: Path) -> Counter[str]:
    return Counter(row["key"] for row in read_table(RunLocation.open(str(at / "run")), IMAGES).to_pylist())


def changing_source(at: Path) -> Row:
    """Rewrite, delete and add files while a run reads them."""
    images = write_source(at / "images", 60)
    before = _digests(images)
    process = _start(at)
    while process.poll() is None and not list((at / "run" / "_receipts").glob("shard-*.json")):
        time.sleep(0.01)
    rewritten = [path for path in sorted(images.rglob("image-*.png")) if int(path.stem[-2:]) % 5 == 1]
    deleted = [path for path in sorted(images.rglob("image-*.png")) if int(path.stem[-2:]) % 5 == 3]
    for path in rewritten:
        path.write_bytes(png(11, 11, seed=int(path.stem[-2:]) + 1000))
    for path in deleted:
        path.unlink()
    for number in range(10):
        (images / f"added-{number}.png").write_bytes(png(seed=2000 + number))
    said = _end(process)
    after, first = _digests(images), run_result(at / "run")
    location = RunLocation.open(str(at / "run"))
    table = read_table(location, IMAGES).to_pylist()
    reasons = Counter(row["reason"] for row in read_table(location, FAILURES).to_pylist())
    wrong = [
        row["key"]
        for row in table
        if row["status"] != "quarantined" and row["sha256"] not in (before[row["key"]], after.get(row["key"]))
    ]
    again = _start(at)
    told = _end(again)
    problems = [
        *(["the first start failed: " + said] if process.returncode else []),
        *(f"{key} is of no state" for key in wrong),
        *([f"rows {len(table)} of {len(before)}"] if {row["key"] for row in table} != set(before) else []),
        *([f"`verify`: {first['verify']}"] if first["verify"] else []),
        *([f"reasons {dict(reasons)}"] if not (reasons["changed"] and reasons["missing"]) else []),
        *(["the second start failed: " + told] if again.returncode else []),
        *(["a second start does not name them"] if not all(each in told for each in ("changed", "missing")) else []),
        *differences(first, run_result(at / "run")),
    ]
    outcome = (
        f"{len(table)} of {len(before)} images have a row: {len(rewritten) - reasons['changed']} rewritten and "
        f"{len(deleted) - reasons['missing']} deleted ones were read before, {reasons['changed']} are `changed`, "
        f"{reasons['missing']} `missing`; a second start says so"
    )
    how = f"after the first commit {len(rewritten)} files rewritten, {len(deleted)} deleted, 10 added"
    return _row(f"a source that changes: {how}", how, "; ".join(problems) or outcome, ok=not problems)


def _digests(images: Path) -> dict[str, str]:
    return {
        str(path.relative_to(images)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in images.rglob("*")
        if path.is_file()
    }


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def read_only_output(at: Path) -> Row:
    """Turn the output's disk read-only after the first commit, then back."""
    tried = "output read-only in the middle, on a disk"
    how = "a file system remounted read-only after the first commit, then writable"
    if os.geteuid():
        return _row(tried, how, "SKIPPED: only root may mount a file system", ok=True)
    write_source(at / "images", 40)
    undisturbed = _start(at)
    said = _end(undisturbed)
    assert undisturbed.returncode == 0, said
    expected = run_result(at / "run")
    subprocess.run(["rm", "-r", str(at / "run")], check=True)
    with _disk(at / "run"):
        process = _start(at)
        while process.poll() is None and not list((at / "run" / "_receipts").glob("shard-*.json")):
            time.sleep(0.01)
        # Refused while a file is open for writing.
        while subprocess.run(["mount", "-o", "remount,ro", str(at / "run")], stderr=subprocess.DEVNULL).returncode:
            time.sleep(0.005)
        said = _end(process)
        subprocess.run(["mount", "-o", "remount,rw", str(at / "run")], check=True)
        committed = len(list((at / "run" / "_receipts").glob("shard-*.json")))
        again = _start(at)
        told = _end(again)
        problems = [
            *([f"code {process.returncode}, without the remedy: {said}"] if "mounted read-only" not in said else []),
            *([f"code {process.returncode} of the stopped run"] if process.returncode not in (1, 2, 3) else []),
            *(["the second start failed: " + told] if again.returncode else []),
            *differences(expected, run_result(at / "run")),
        ]
    code = process.returncode
    outcome = f"stopped with code {code} and the remedy after {committed} commits; the same command ends as undisturbed"
    return _row(
        tried, how, "; ".join(problems) or re.sub(r"\d+ commits", "the first commits", outcome), ok=not problems
    )


SINGLE_TRIALS: Final[dict[str, Callable[[Path], Row]]] = {
    "many files": many_files,
    "large tar": large_tar,
    "changing source": changing_source,
    "read-only output": read_only_output,
}

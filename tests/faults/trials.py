"""Commands that are killed in the middle, and given again: `python -m tests.faults.trials [--times N]`.

Each command runs once undisturbed, which measures it. Then SIGKILL meets its whole process group N times, at moments
spread over that time: a fifth of them before its first write, the others after it. The same command is given again, and
what it leaves is compared with what the undisturbed one left. `single_trials.py` tries what needs no second start.
Each trial adds a line to the record, from which docs/records/reliability.md has its table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pseudoris.files.local_storage import TEMPORARY_PREFIX
from pseudoris.files.location import RunLocation
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.garbage import TEMPORARY_AGE_S
from pseudoris.training.learning import TrainingFolder
from tests.builders.images import png
from tests.builders.plain_runs import work_off
from tests.builders.runs import SMALL, STUBS, part_digests, stub_config, write_source
from tests.faults.harness import ROOT, image_ids
from tests.faults.report import read_record, trial_table
from tests.training.chooser.builders import chooser_words, imported_run

RECORD: Final = Path(__file__).with_name("trials.jsonl")
PLUGINS: Final = ROOT / "tests" / "plugins"
# What the command leaves, by what it is: a file's digest, the rows of an image, the problems that `verify` finds.
Result = Mapping[str, object]
_DEADLINE_S: Final = 300.0
_BEFORE_THE_FIRST_WRITE: Final = 0.2
_TRIES_A_KILL: Final = 4
_NUM_IMAGES: Final = 40
_STEPS: Final = ("training.num_steps=40", "training.num_warmup_steps=2", "training.checkpoint_every=4")
_SLEEP: Final = "masks.options={sleep_s: 0.05}"
# One image fails as often as it is tried while the run is made, and never again.
_FAILS: Final = "masks.options={sleep_s: 0.05, raises_on: a/image-012.png, raises_times: 2, tally: tally}"
FORMATS: Final = ("parquet", "refer", "cris", "lmdb", "coco", "sa1b", "webdataset", "hf", "pseudo-ris-csv")


@dataclass(frozen=True)
class Command:
    """A command to kill; it runs in a folder that `prepare` fills with `images` and perhaps `run`.

    `aim` is a pattern of paths below `writes`. It is killed once one more of them is there, each time at a later one,
    instead of at moments of its time.
    """

    tried: str
    words: Sequence[str]
    prepare: Callable[[Path], object]
    writes: str
    result: Callable[[Path], Result]
    program: Sequence[str] = ("-m", "pseudoris")
    aim: str = ""


def start(
    words: Sequence[str],
    at: Path,
    program: Sequence[str] = Command.program,
    *,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, with more variables; it knows the stub engines."""
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, PLUGINS)))}
    environment["COLUMNS"] = "400"
    return subprocess.Popen(
        [sys.executable, *program, *words],
        cwd=at,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Return what the command said; it must end well."""
    said = process.communicate(timeout=_DEADLINE_S)[0]
    assert process.returncode == 0, f"exit code {process.returncode}:\n{said}"
    return said


def annotation(*words: str, source: str = "images", options: str = _SLEEP) -> list[str]:
    settings = [word for each in (*STUBS, *SMALL, options) for word in ("--set", each)]
    return ["annotate", "--preset=tiny", source, "run", "--address", "local", *settings, *words]


def run_result(out: Path) -> Result:
    """Return the parts of a run, the rows of each image, and what `verify` says."""
    location = RunLocation.open(str(out))
    rows = {f"image {each}": count for each, count in Counter(image_ids(location)).items()}
    return {**rows, **part_digests(out), "verify": [str(each) for each in verify_run(location).problems]}


def files_result(folder: Path, *, is_run: bool = False) -> Result:
    """Return the digest of each file; in a run, a young temporary file or probe may be a living writer's."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        is_young = time.time() - path.stat().st_mtime < TEMPORARY_AGE_S
        if not (is_run and is_young and path.name.startswith((TEMPORARY_PREFIX, "_probe-"))):
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def finished(at: Path, num_images: int = _NUM_IMAGES, options: str = _SLEEP, shard: int = 4) -> None:
    """Leave images and a finished run of them, made without Ray."""
    write_source(at / "images", num_images)
    work_off(at / "images", at / "run", stub_config(options, f"shards.max_images={shard}"))


def _large(at: Path) -> None:
    finished(at, 300, "masks.options={}", 10)


def _grown(at: Path) -> None:
    finished(at)
    for index in range(20):
        (at / "images" / "c" / f"later-{index:03d}.png").write_bytes(png(seed=index))


def _failed(at: Path) -> None:
    write_source(at / "images", _NUM_IMAGES)
    finish(start(annotation(options=_FAILS), at))


def _littered(at: Path) -> None:
    """A finished run with parts that lost, and temporary files of writers killed long ago."""
    _large(at)
    long_ago_s = time.time() - 2 * TEMPORARY_AGE_S
    for part in list((at / "run").glob("*/shard-*.parquet")):
        name = part.name.rpartition("-")[0]
        for index in range(10):
            shutil.copyfile(part, part.with_name(f"{name}-{index:08x}.parquet"))
            temporary = part.with_name(f"{TEMPORARY_PREFIX}{index}-{random.getrandbits(64):016x}")
            temporary.write_bytes(b"half")
            os.utime(temporary, (long_ago_s, long_ago_s))


def _annotated(at: Path) -> None:
    shutil.move(imported_run(at, 2), at / "run")


def training_result(out: Path) -> Result:
    module = TrainingFolder(out).load()["module"]
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in module.items()}


def commands() -> Iterator[Command]:
    """Yield the commands that write, the dear ones last."""
    yield Command("`gc`", ["gc", "run"], _littered, "run", partial(files_result, is_run=True))
    to = ["--tau", "0.9", "--threads", "1"]
    yield Command("`refilter`", ["refilter", "run", "new", *to], _large, "new", run_result)
    yield Command("`gallery`", ["gallery", "run", "--to", "to"], _large, "to", files_result)
    for name in FORMATS:
        words = ["export", "run", "to", "--format", name]
        yield Command(f"`export --format {name}`", words, _large, "to", files_result)
    annotations: dict[str, tuple[Sequence[str], Callable[[Path], object]]] = {
        "`annotate`": (annotation(), lambda at: write_source(at / "images", _NUM_IMAGES)),
        "`annotate --extend`": (annotation("--extend"), _grown),
        "`annotate --retry-failed`": (annotation("--retry-failed", options=_FAILS), _failed),
    }
    for name, (words, prepare) in annotations.items():
        yield Command(name, words, prepare, "run", run_result)
    # Parts of the new generation are there, and its receipt is not, or has just been written.
    retry, prepare = annotations["`annotate --retry-failed`"]
    for aim in ("masks/*.g1-*", "failures/*.g1-*", "_receipts/*.g1.json"):
        name = f"`annotate --retry-failed`, at {aim.partition('/')[0]}"
        yield Command(name, retry, prepare, "run", run_result, aim=aim)
    words = [word for each in (*chooser_words(Path("candidates")), *_STEPS) for word in ("--set", each)]
    training = ["train", "student", "run", "--out", "out", "--resume", *words]
    yield Command("`train student --resume`", training, _annotated, "out", training_result)


def try_command(command: Command, folder: Path, times: int, draw: random.Random) -> dict[str, Any]:
    """Kill the command `times` times; return the trial's row."""
    at, ready = folder / "at", folder / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    with _emptied(at):
        command.prepare(at)
        shutil.copytree(at, ready)
        first_s, end_s = _measure(command, at)
        expected = command.result(at / command.writes)
    if (ready / command.writes).exists():
        assert differences(command.result(ready / command.writes), expected), f"{command.tried} changed nothing"
    struck, problems = 0, Counter[str]()
    for _ in range(_TRIES_A_KILL * times):
        if struck == times:
            break
        with _emptied(at):
            shutil.copytree(ready, at, dirs_exist_ok=True)
            # A start that ended before its moment came does not count, and its moment is drawn again.
            if command.aim:
                struck += _kill_at(command, at, struck + 1)
            else:
                struck += _kill(command, at, (struck + draw.random()) / times, first_s, end_s - first_s)
            said = finish(start(command.words, at, command.program))
            found = command.result(at / command.writes)
        problems.update(differences(expected, found))
        if differences(expected, found):
            print(said, file=sys.stderr)
    when = f"at each of {command.aim}" if command.aim else f"within {end_s:.1f} s, first write after {first_s:.1f} s"
    how = f"SIGKILL {when}"
    outcome = f"as undisturbed: {_count(expected)}" if not problems else "; ".join(sorted(problems)[:3])
    return {"tried": f"{command.tried} killed", "how": how, "times": struck, "outcome": outcome, "ok": not problems}


def differences(expected: Result, found: Result) -> list[str]:
    """Return in words where a result is not the undisturbed one's."""
    lost = [f"LOST {what}" for what in expected if what not in found]
    more = [f"MORE {what}" for what in found if what not in expected]
    other = [f"DIFFERS {what}" for what in expected if what in found and found[what] != expected[what]]
    return [*lost, *more, *other]


def _count(result: Result) -> str:
    rows = sum(what.startswith("image ") for what in result)
    files = len(result) - rows - ("verify" in result)
    return f"{files} files" + (f", {rows} images, `verify` clean" if rows else "")


@contextmanager
def _emptied(at: Path) -> Iterator[None]:
    """The place is the same for each start, because a run's header names its source."""
    at.mkdir()
    try:
        yield
    finally:
        # Processes of a killed driver's Ray may still write for a moment.
        while at.exists():
            with suppress(OSError):
                shutil.rmtree(at)


def _measure(command: Command, at: Path) -> tuple[float, float]:
    began = time.monotonic()
    process = start(command.words, at, command.program)
    before, first_s = _names(at / command.writes), None
    while process.poll() is None:
        if first_s is None and _names(at / command.writes) != before:
            first_s = time.monotonic() - began
        time.sleep(0.005)
    end_s = time.monotonic() - began
    finish(process)
    assert first_s is not None, f"{command.tried} wrote nothing"
    return first_s, end_s


def _kill(command: Command, at: Path, moment: float, first_s: float, work_s: float) -> bool:
    """Kill it at a moment of its time, 0 to 1; return whether it still ran."""
    before = _names(at / command.writes)
    process = start(command.words, at, command.program)
    if moment < _BEFORE_THE_FIRST_WRITE:
        time.sleep(moment / _BEFORE_THE_FIRST_WRITE * first_s)
    else:
        while process.poll() is None and _names(at / command.writes) == before:
            time.sleep(0.001)
        time.sleep((moment - _BEFORE_THE_FIRST_WRITE) / (1 - _BEFORE_THE_FIRST_WRITE) * work_s)
    return _struck(process)


def _kill_at(command: Command, at: Path, number: int) -> bool:
    """Kill it as soon as `number` files are there that it aims at; return whether it still ran."""
    process = start(command.words, at, command.program)
    while process.poll() is None and len(list((at / command.writes).glob(command.aim))) < number:
        time.sleep(0.001)
    return _struck(process)


def _struck(process: subprocess.Popen[str]) -> bool:
    is_alive = process.poll() is None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=_DEADLINE_S)
    return is_alive


def _names(folder: Path) -> set[str]:
    return {os.path.join(top, name) for top, _, names in os.walk(folder) for name in names}  # noqa: PTH118  # polled


def main() -> None:
    """Run the trials, add them to the record, and print its table; exit code 1 if one ended otherwise."""
    from tests.faults.single_trials import SINGLE_TRIALS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="kills of each command (default: 10)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", default="", help="trials whose name holds this text")
    parser.add_argument("--record", type=Path, default=RECORD, help="a line of JSON a trial is added to it")
    given = parser.parse_args()
    trials: dict[str, Callable[[Path], dict[str, Any]]] = {
        each.tried: lambda folder, each=each: try_command(each, folder, given.times, random.Random(given.seed))
        for each in commands()
    }
    is_ok = True
    for name, attempt in {**trials, **SINGLE_TRIALS}.items():
        if given.only not in name:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="pseudoris-trial-", ignore_cleanup_errors=True) as folder:
            try:
                row = attempt(Path(folder))
            except AssertionError as error:
                row = {"tried": name, "times": 1, "outcome": str(error), "ok": False}
        is_ok &= row["ok"]
        print(f"{time.monotonic() - began:6.0f} s  {row['tried']}: {row['outcome']}", flush=True)
        with given.record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "seed": given.seed}) + "\n")
    print(trial_table(read_record(given.record)))
    sys.exit(0 if is_ok else 1)


if __name__ == "__main__":
    sys.path.insert(0, str(PLUGINS))
    main()

"""Gives damaged inputs to the readers of untrusted files, and keeps each input that a reader does not survive.

    python -m tests.fuzz.fuzzer [TARGET …] [--inputs N] [--seed S] [--keep FOLDER]    looks for new ones
    python -m tests.fuzz.fuzzer TARGET --replay FILE                                  reads one again

A reader must return, or raise one of the project's errors. A crash of its process, more than ten seconds, more than
512 MB or any other exception is a finding. Input N of a seed is always the same, on every machine.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Self

from tests.fuzz.mutator import mutated

TIMEOUT_S = 10.0
# Imports, on a machine that others use.
START_TIMEOUT_S = 180.0
MAX_FINDINGS = 5
ROOT = Path(__file__).parents[2]
# One thread each: stacks and arenas of many would count as memory that an input takes.
ENVIRONMENT = {
    **{"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    **{"ARROW_DEFAULT_MEMORY_POOL": "system", "PYTHONHASHSEED": "0"},
}


@dataclass(frozen=True)
class Target:
    """A reader of untrusted files: `prepare` returns it, and may write to the empty folder that it is given."""

    seeds: Callable[[], Sequence[bytes]]
    prepare: Callable[[Path], Callable[[bytes], object]]
    vary: Callable[[Random, Sequence[bytes]], bytes] = mutated


@dataclass(frozen=True)
class Finding:
    """An input that a reader did not survive: `crash`, `hang`, `memory` or `error`, and what was seen."""

    kind: str
    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}\n{self.what}"


@dataclass
class Report:
    """What became of the sound inputs, how often each thing happened, and the findings."""

    sound: list[dict[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


def fuzz(name: str, target: Target, folder: Path, *, num_inputs: int, seed: int) -> Report:
    """Give `num_inputs` damaged inputs to a target, of which `name` is `module:name`; keep what is found in `folder`.

    Seed and name decide the inputs. It stops after MAX_FINDINGS of different causes.
    """
    report, seeds, causes = Report(), target.seeds(), set[str]()
    with Reader(name) as reader:
        report.sound = reader.sound
        for number in range(num_inputs):
            # By number, so that one input can be made again without those before it.
            data = target.vary(Random(f"{name} {seed} {number}"), seeds)
            answer = reader.read(data)
            report.counts[answer["kind"]] += 1
            cause = f"{answer['kind']} {answer['what'].strip().rpartition('File ')[2][:200]}"
            if answer["kind"] in ("read", "refused") or cause in causes:
                continue
            causes.add(cause)
            path = folder / f"{name.rpartition(':')[2]}-{seed}-{number}.bin"
            path.write_bytes(data)
            report.findings.append(Finding(answer["kind"], path, answer["what"]))
            if len(report.findings) == MAX_FINDINGS:
                break
    return report


class Reader:
    """A child process that reads one input after another; one that dies or hangs is replaced."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._child: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        self._log = Path(self._folder.name, "log")
        self.sound: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def read(self, data: bytes) -> dict[str, str]:
        answer = self._read(data)
        if answer["kind"] == "hang":
            # A machine that others use may pause: it counts if it hangs again, alone.
            answer = self._read(data)
        return answer

    def _read(self, data: bytes) -> dict[str, str]:
        if self._child is None:
            self._start()
        assert self._child is not None
        assert self._child.stdin is not None
        path = Path(self._folder.name, "input")
        path.write_bytes(data)
        self._child.stdin.write(f"{path}\n".encode())
        self._child.stdin.flush()
        answer = self._receive(TIMEOUT_S)
        if answer is not None:
            return answer
        status = self._child.poll()
        if status is None:
            # Its fault handler then writes where it stands.
            self._child.send_signal(signal.SIGABRT)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(TIMEOUT_S)
        self._end()
        said = self._log.read_text(errors="replace")[-4_000:]
        if status is None:
            return {"kind": "hang", "what": f"no answer in {TIMEOUT_S:g} s\n{said}"}
        return {"kind": "crash", "what": f"exit status {status}\n{said}"}

    def _start(self) -> None:
        work = Path(tempfile.mkdtemp(dir=self._folder.name))
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.child", self._name, str(work)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
                cwd=work,
            )
        answer = self._receive(START_TIMEOUT_S)
        if answer is None or answer["kind"] != "ready":
            self._end()
            raise RuntimeError(f"{self._name} did not start: {self._log.read_text(errors='replace')[-4_000:]}")
        self.sound = answer["sound"]

    def _receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the child's next line; None if it died, or is late."""
        assert self._child is not None
        assert self._child.stdout is not None
        if not select.select([self._child.stdout], [], [], timeout_s)[0]:
            return None
        line = self._child.stdout.readline()
        if line:
            return dict(json.loads(line))
        self._child.wait()
        return None

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def main() -> None:
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(sorted(TARGETS)))
    parser.add_argument("--inputs", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "pseudoris-fuzz"))
    parser.add_argument("--replay", type=Path)
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    for name in given.targets or sorted(TARGETS):
        where = f"tests.fuzz.targets:{name}"
        if given.replay:
            with Reader(where) as reader:
                print(json.dumps(reader.read(given.replay.read_bytes()), indent=1).replace("\\n", "\n"))
            continue
        started = time.monotonic()
        report = fuzz(where, TARGETS[name], given.keep, num_inputs=given.inputs, seed=given.seed)
        print(f"{name}: seed {given.seed}, {dict(report.counts)}, {time.monotonic() - started:.0f} s", flush=True)
        for finding in report.findings:
            print(finding, flush=True)


if __name__ == "__main__":
    main()

"""Breaks the code on purpose, one mutant after another, and tells which breaks the named tests do not see.

    python -m tests.mutants [--only TEXT] [--tenth 0..9] [--processes 2] [--json FILE]

Each break is made in a copy of the repository, in which the tests pass without it: that is tried first. The exit code
is 1 if one survives, or cannot be tried.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.listed import MUTANTS, Mutant
from tests.mutants.loaded import NOT_LOADED

ROOT = Path(__file__).parents[2]
_NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*-out", "*_cache")
# Of pytest: tests failed; of a plugin: the break was not loaded. All else is a mutant that cannot be tried.
_OUTCOMES = {0: "survived", 1: "killed", NOT_LOADED: "not loaded"}
_TIMEOUT_S = 600
_UNBROKEN_TIMEOUT_S = 3600


@dataclass(frozen=True, slots=True)
class Outcome:
    """`killed`, `survived`, `unobservable`, `timed out`, `not loaded` or `broken`, and pytest's last lines."""

    mutant: Mutant
    word: str
    said: str = ""


class Copy:
    """A copy of the repository, in which one mutant at a time lives."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        shutil.copytree(ROOT, self.root, ignore=_NOT_COPIED, symlinks=True)
        if (ROOT.parent / "shared").exists():
            (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())

    def outcome(self, mutant: Mutant) -> Outcome:
        """Break the copy, run the mutant's tests, and mend it."""
        path = self.root / mutant.file
        text = path.read_text(encoding="utf-8")
        try:
            path.write_text(mutant.applied(text), encoding="utf-8")
            ended = self.tested(mutant.tests, "-p", "tests.mutants.loaded", file=mutant.file)
        except ValueError as error:
            return Outcome(mutant, "broken", str(error))
        except subprocess.TimeoutExpired:
            # Such as a loop that no longer ends, or a machine that has no time.
            return Outcome(mutant, "timed out")
        finally:
            path.write_text(text, encoding="utf-8")
        word = _OUTCOMES.get(ended.returncode, "broken")
        if mutant.unobservable and word == "survived":
            return Outcome(mutant, "unobservable", mutant.unobservable)
        return Outcome(mutant, word, "" if word == "killed" else ended.stdout[-2000:])

    def tested(
        self, tests: Sequence[str], *words: str, file: str = "", timeout_s: int = _TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        hook = self.root / "tests" / "mutants" / "path"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(hook), *filter(None, [os.environ.get("PYTHONPATH")])]),
            # The bytecode of a file that changes within a second would be taken for that of the next mutant.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PSEUDORIS_MUTANTS_COPY": str(self.root),
            "PSEUDORIS_MUTANTS_FILE": file,
        }
        options = ["-x", "-q", "-m", "", "-p", "no:cacheprovider", *words]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )


def outcomes(mutants: Sequence[Mutant], processes: int = 2) -> list[Outcome]:
    """Return what becomes of each mutant, in order; each process has a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(processes) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(min(processes, len(mutants))):
            copies.put(Copy(Path(folder) / str(number)))

        failing = _failing_unbroken(copies, mutants)

        def tried(mutant: Mutant) -> Outcome:
            copy = copies.get()
            try:
                said = failing.get(mutant.tests)
                found = copy.outcome(mutant) if said is None else Outcome(mutant, "broken", said)
            finally:
                copies.put(copy)
            print(f"{found.word:12} {mutant.room}: {mutant.name}", flush=True)
            return found

        return list(pool.map(tried, mutants))


def _failing_unbroken(copies: SimpleQueue[Copy], mutants: Sequence[Mutant]) -> dict[tuple[str, ...], str]:
    """Return what tests say that fail without a break, by the tests of a mutant."""
    copy = copies.get()
    try:
        every = dict.fromkeys(test for each in mutants for test in each.tests)
        if not every or copy.tested(list(every), timeout_s=_UNBROKEN_TIMEOUT_S).returncode == 0:
            return {}
        ended = {tests: copy.tested(tests) for tests in dict.fromkeys(each.tests for each in mutants)}
        return {tests: each.stdout[-2000:] for tests, each in ended.items() if each.returncode}
    finally:
        copies.put(copy)


def table(found: Sequence[Outcome]) -> str:
    """Return killed, survived and unobservable by room, as Markdown; what could not be tried only if there is any."""
    counts = Counter((each.mutant.room, each.word) for each in found)
    untried = [word for word in ("timed out", "not loaded", "broken") if any(each.word == word for each in found)]
    words = ("killed", "survived", "unobservable", *untried)
    rows = [(room, *(str(counts[room, word]) for word in words)) for room in sorted({room for room, _ in counts})]
    total = ("**all**", *(str(sum(each.word == word for each in found)) for word in words))
    lines = [("room", *words), ("---", *("--:" for _ in words)), *rows, total]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", default="", help="a part of a mutant's name, file or tests")
    parser.add_argument("--tenth", type=int, choices=range(10), help="every tenth mutant, from this one on")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the outcomes here")
    asked = parser.parse_args(words)
    chosen = [each for each in MUTANTS if asked.only in f"{each.name} {each.file} {' '.join(each.tests)}"]
    chosen = chosen if asked.tenth is None else chosen[asked.tenth :: 10]
    if not chosen:
        parser.error(f"no mutant's name, file or test holds {asked.only!r}, or the tenth is empty")
    found = outcomes(chosen, asked.processes)
    for each in found:
        if each.word not in ("killed", "unobservable"):
            print(f"\n{each.word}: {each.mutant.name} ({each.mutant.file})\n{each.said}")
    print("", table(found), sep="\n")
    if asked.json is not None:
        lines = [{"name": each.mutant.name, "file": each.mutant.file, "outcome": each.word} for each in found]
        asked.json.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    return int(any(each.word not in ("killed", "unobservable") for each in found))


if __name__ == "__main__":
    sys.exit(main())

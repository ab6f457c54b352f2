"""Measures and prints benchmarks: their command line, medians, ratios, peak memory, a table and its JSON.

`options` reads a command line from a docstring. Experiments name by `digest_of` what they keep: it must not change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch


_OPTION: Final = re.compile(r"\[(--[a-z-]+)([^]]*)\]")
_MANY: Final = "…"
_TYPES: Final[Mapping[str, type]] = {"FILE": Path, "FOLDER": Path, "N": int}


def options(usage: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line, which are those that a module's docstring shows.

    `[--name WORD]`: one word; FILE and FOLDER are paths, N is a number. `[--name 5]`: of the type of this default.
    `[--name a|b]`: one of these, by default the first. `[--name 1 2]`: several, by default these. `[--name]`: a switch.
    `…` behind the words: as many as are given; after a choice or a word by default none. KEY=VALUE are `assignments`.
    """
    parser = argparse.ArgumentParser(description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    several: dict[str, list[Any]] = {}
    for flag, shown in _OPTION.findall(usage or ""):
        words = shown.removesuffix(_MANY).split()
        if not words:
            parser.add_argument(flag, action="store_true")
            continue
        name = "assignments" if flag == "--set" else flag[2:].replace("-", "_")
        kind, choices = _type_of(words[0]), words[0].split("|") if "|" in words[0] else None
        known = [] if words[0].isupper() else choices or [kind(word) for word in words]
        if words[0].isupper() and len(words) > 1:
            parser.add_argument(flag, nargs=len(words), metavar=tuple(words))
        elif shown.endswith(_MANY) or len(words) > 1:
            parser.add_argument(flag, dest=name, action="extend", nargs="+", type=kind, choices=choices)
            several[name] = [] if choices else known
        else:
            parser.add_argument(flag, type=kind, choices=choices, default=known[0] if known else None)
    given = parser.parse_args(arguments)
    # What is given would be added to a default of argparse's.
    return argparse.Namespace(**{**vars(given), **{name: getattr(given, name) or several[name] for name in several}})


def _type_of(word: str) -> type:
    is_number = re.fullmatch(r"\d+(\.\d+)?", word)
    return _TYPES.get(word, (float if "." in word else int) if is_number else str)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured case.

    Attributes:
        case: What was measured.
        baseline_s: Median seconds of the other side; None where there is none.
        ours_s: Median seconds of ours.
        peak_rss_bytes: Highest resident size of the process so far: it never falls within a run.
        note: What a reader must know, such as a rate or a figure that was counted and not timed.
    """

    case: str
    baseline_s: float | None
    ours_s: float
    peak_rss_bytes: int
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Baseline over ours: above 1 ours is faster."""
        return None if self.baseline_s is None else self.baseline_s / self.ours_s


def median_seconds(
    work: Callable[[], object], *, repeats: int = 5, warm_ups: int = 1, limit_s: float = math.inf
) -> float:
    """Return the median wall seconds of `repeats` calls after `warm_ups` that do not count.

    Once the timed calls have taken `limit_s`, they are enough.
    """
    for _ in range(warm_ups):
        work()
    taken: list[float] = []
    for _ in range(repeats):
        if taken and sum(taken) >= limit_s:
            break
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def peak_rss_bytes() -> int:
    """Return the highest resident size that this process had, in bytes; Linux."""
    # Not getrusage's: that of a started process begins with the peak of the one that started it.
    fields = Path("/proc/self/status").read_text(encoding="ascii").split()
    return int(fields[fields.index("VmHWM:") + 1]) * 1024


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def wait_for(device: torch.device) -> None:
    """Return once a GPU has done what it was given; a CPU has."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def random_weights(preset: str, stages: Sequence[str]) -> list[str]:
    """Return the assignments that give `stages` random weights; none for `tiny`, whose weights are in the package.

    What else a run of `paper` must bring, an instance prior and a parser, is left out; not a parser that is installed.
    """
    if preset == "tiny":
        return []
    has_parser = find_spec("spacy") and find_spec("en_core_web_lg")
    without = {"masks": ["masks.prior.kind=none"], "filtering": [] if has_parser else ["filtering.nouns=rules"]}
    return [word for stage in stages for word in (f"{stage}.weights={{uri: 'random:0'}}", *without.get(stage, ()))]


def write_json(rows: object, path: Path | None) -> None:
    """Write rows as JSON, where a path is given."""
    if path is not None:
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    """Return what the figures were measured on; never a host's name."""
    # Here, because a job that loads no torch is measured too.
    import torch

    return (
        f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}"
    )


def print_table(title: str, rows: Sequence[Mapping[str, str]], *, width: int | None = None) -> None:
    """Print rows, which have the same keys, as a table: a column of figures stands right, one of words left."""
    # Here, because a machine that only measures may lack it.
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for header in rows[0]:
        is_figures = all(row[header][:1] in "0123456789+-–" for row in rows)
        table.add_column(header, justify="right" if is_figures else "left")
    for row in rows:
        table.add_row(*row.values())
    Console(width=width).print(table)


def report(title: str, rows: Sequence[Row], json_path: Path | None) -> None:
    """Print `rows` as a table, and write them as a JSON list where a path is given."""
    cells = [
        {
            "case": row.case,
            "baseline s": "–" if row.baseline_s is None else f"{row.baseline_s:.3f}",
            "ours s": f"{row.ours_s:.3f}",
            "ratio": "–" if row.ratio is None else f"{row.ratio:.1f}",
            "peak RSS MiB": f"{row.peak_rss_bytes / 2**20:.0f}",
            "note": row.note,
        }
        for row in rows
    ]
    print_table(f"{title} ({machine()})", cells)
    write_json([{**asdict(row), "ratio": row.ratio} for row in rows], json_path)


def digest_of(said: object) -> str:
    """Return a short name of JSON values, 16 hexadecimal digits; a part of it serves where few are told apart."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

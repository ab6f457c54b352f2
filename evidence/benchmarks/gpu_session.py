"""Ten minutes of a GPU: what is worth knowing of it first, one line a measurement, and on from where it was cut off.

    python -m evidence.benchmarks.gpu_session [--out FILE] [--device cuda|pretended] [--items NAME …]
        [--seconds 600.0] [--tiny]

Each of `ITEMS` runs in a process of its own, with the environment of a run's actors, which ends when its limit is over.
The limits of all are 600 seconds, and what an item leaves over the next one may take. What is measured stands in
`--out` at once, a JSON object a line. The same command again measures what is not there for this code, device and
torch. It needs no Ray, spaCy, network or installed `pseudoris`: a checkout, and beside torch and its usual company
pyarrow, open_clip_torch, segment-anything, pycocotools, pydantic and ftfy. Weights are random, of the presets' shapes.
`--device pretended --tiny` shows on a CPU whether it runs; its figures say nothing of a GPU, and name the CPU.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from evidence.benchmarks.measurement import machine, options
from pseudoris.schemas.config import ComputeConfig
from pseudoris.workers.process_memory import actor_environment

_ROOT: Final = Path(__file__).parents[2]
_CODE: Final = (
    "evidence/benchmarks",
    "evidence/recipes",
    "files",
    "images",
    "primitives",
    "pseudoris",
    "schemas",
    "synthworld",
    "tests/oracles",
    "workers",
)
_NEEDED: Final = ("torch", "torchvision", "pyarrow", "open_clip", "segment_anything", "pycocotools", "pydantic", "ftfy")
_COLUMNS: Final = ("images_per_s", "wall_s", "host_s", "kernel_s", "kernels", "waits", "peak_bytes")
_SHOWN_TOPS: Final = 5
_LITTLE: Final = ("preset=tiny", "images=2", "masks=3")
_TRACED: Final = (
    "captions",
    "captions images=4 is_together=1",
    "captions images=16 is_together=1",
    "masks",
    "filter",
)
_MANY: Final = ((16, 10), (32, 10), (32, 0))
_FIXED, _TREE = " is_together=1", " is_together=1 is_tree=1"
_REFERENCES: Final = ("authors", "meta", "embeddings")
# By item its limit in seconds and its cases, a function of `evidence.benchmarks.gpu_session_work` with arguments. What
# waits for code that a later change brings says so behind a colon, and is told, not run. masks=0 are mixed numbers.
ITEMS: Final[dict[str, tuple[int, list[str]]]] = {
    "proof": (25, [f"proof preset={preset}" for preset in ("base", "paper")]),
    "profile": (95, [f"stage preset={preset} has_trace=1 stage={x}" for preset in ("base", "paper") for x in _TRACED]),
    "operators": (20, ["operators"]),
    "bits": (
        80,
        [
            *(f"bits preset=base{x}" for x in ("", _FIXED, _TREE)),
            *(f"bits preset={preset} masks=0 images=8{_FIXED}" for preset in ("base", "paper")),
        ],
    ),
    "authors": (80, [f"{each} preset={preset}" for each in _REFERENCES for preset in ("base", "paper")]),
    "base": (
        100,
        [f"stage preset=base stage=captions images={n} masks={m}{x}" for x in (_FIXED, _TREE) for n, m in _MANY],
    ),
    "paper": (
        90,
        [
            *(f"stage preset=paper stage=captions images=16 masks=0{x}" for x in (_FIXED, _TREE)),
            *(f"stage preset={preset} stage=captions masks=60{_FIXED}" for preset in ("base", "paper")),
            *(f"stage preset={preset} stage=captions masks=60" for preset in ("base", "paper")),
            "its own parser: not there yet without spaCy",
        ],
    ),
    "processes": (60, [*(f"processes preset=base count={x}" for x in (1, 3)), "under NVIDIA's MPS: not there yet"]),
    "float32": (50, [f"stage preset=base stage={x} is_full=1" for x in ("captions", "masks")]),
}

Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    """Return the lines of a session, after cutting off half a one at its end; SystemExit: it is another file."""
    written = path.read_bytes() if path.exists() else b""
    if not written.startswith(b'{"item"'[: len(written)]):
        sys.exit(f"{path} is no file of a session: give another --out")
    whole = written[: written.rfind(b"\n") + 1]
    if whole != written:
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def _stamp(is_pretended: bool) -> Line:
    """Return what the figures are of: device, torch, code; SystemExit where a package or the GPU is missing."""
    if lacking := [name for name in _NEEDED if find_spec(name) is None]:
        sys.exit(f"this Python lacks {', '.join(lacking)}: install what evidence.benchmarks.gpu_session --help names")
    import torch

    if not is_pretended and not torch.cuda.is_available():
        sys.exit("torch sees no GPU, so nothing is measured; --device pretended --tiny shows whether this runs")
    code = hashlib.sha256()
    for path in sorted(found for folder in _CODE for found in (_ROOT / folder).rglob("*.*")):
        if path.suffix in {".py", ".yaml"}:
            code.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes())
    device = f"no GPU, a CPU that pretends: {machine()}" if is_pretended else torch.cuda.get_device_name()
    return {"device": device, "torch": str(torch.__version__), "code": code.hexdigest()[:16]}


def _run(cases: Sequence[str], limit_s: float, is_pretended: bool, add: Callable[[str, Line], None]) -> None:
    """Run cases in one process, `add` what each gives, and of the others why they gave nothing."""
    # As `pipeline` starts actors, and before the process loads torch.
    os.environ |= {} if is_pretended else actor_environment(ComputeConfig(device="cuda"))
    context, ends, waiting = get_context("spawn"), time.monotonic() + limit_s, list(cases)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(cases, is_pretended, sender))
    process.start()
    sender.close()
    with suppress(EOFError):
        while waiting and receiver.poll(max(0.0, ends - time.monotonic())):
            add(waiting[0], receiver.recv())
            waiting.pop(0)
    process.join(timeout=1)
    why = f"its {limit_s:.0f} s were over" if process.is_alive() else f"its process ended by {process.exitcode}"
    process.kill()
    process.join()
    for case in waiting:
        add(case, {"not_measured": why})


def _work(*given: Any) -> None:
    # Imported here: the process that writes the file needs no engine.
    from evidence.benchmarks.gpu_session_work import work

    work(*given)


def show(items: Mapping[str, Sequence[str]], known: Mapping[tuple[str, str], Line]) -> None:
    """Print the table, with what a GPU's time went to where it was traced."""
    print(*(f"{name:>12}" for name in _COLUMNS), " item: case; other figures")
    for item, case in ((item, case) for item, cases in items.items() for case in cases):
        line = known[item, case]
        figures = dict(line.get("figures", {}))
        tops = {name: figures.pop(name) for name in ("by_kernel", "by_op") if name in figures}
        cells = [_cell(figures.pop(name, None)) for name in _COLUMNS]
        rest = ", ".join(f"{name} {_cell(value)}" for name, value in figures.items())
        print(*(f"{cell:>12}" for cell in cells), f" {item}: {case}; {line.get('not_measured', rest)}")
        for by, (name, seconds, count) in ((by, top) for by, rows in tops.items() for top in rows[:_SHOWN_TOPS]):
            print(f"{by:>25} {seconds:.4f} s, {count} times, {name[:90]}")


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not there yet, print the table; exit with 1 where something could not be measured."""
    given = options(__doc__, arguments)
    if given.out is None or not ITEMS.keys() >= set(given.items):
        sys.exit(f"give --out FILE, and --items of {', '.join(ITEMS)}")
    ends, is_pretended = time.monotonic() + given.seconds, given.device == "pretended"
    items = {item: cases for item, (_, cases) in ITEMS.items() if item in (given.items or ITEMS)}
    for is_of in _LITTLE if given.tiny else ():
        name = is_of.partition("=")[0]
        items = {item: list(dict.fromkeys(re.sub(rf"{name}=\w+", is_of, x) for x in items[item])) for item in items}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines, stamp = read(given.out), _stamp(is_pretended)
    known = {(line["item"], line["case"]): line for line in lines if stamp.items() <= line.items()}
    print(*(f"{name} {value};" for name, value in stamp.items()), flush=True)

    def add(item: str, case: str, found: Line) -> None:
        known[item, case] = {"item": item, "case": case, **stamp, **found}
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(known[item, case]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"{item}: {case}; {found.get('not_measured', 'measured')}", flush=True)

    missing = {item: [x for x in items[item] if "figures" not in known.get((item, x), {})] for item in items}
    to_run = {item: [x for x in cases if ":" not in x] for item, cases in missing.items()}
    limits = {item: ITEMS[item][0] for item in items if to_run[item]}
    for item in items:
        for case in (x for x in missing[item] if ":" in x and (item, x) not in known):
            add(item, case, {"not_measured": case.partition(": ")[2]})
        if to_run[item]:
            left_s = max(0.0, ends - time.monotonic())
            # An item may take what those before it left over.
            limit_s = min(left_s, limits[item] + max(0.0, left_s - sum(limits.values())))
            _run(to_run[item], limit_s, is_pretended, lambda case, found, item=item: add(item, case, found))  # type: ignore[misc]
            del limits[item]
    show(items, known)
    if failed := [case for item in items for case in to_run[item] if "figures" not in known[item, case]]:
        sys.exit(f"not measured, and tried again by the same command: {'; '.join(failed)}")


if __name__ == "__main__":
    main()

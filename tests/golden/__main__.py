"""Holds the bytes of runs, exports and trainings against those of an earlier commit.

    python -m tests.golden [--fast] [--only NAME] [--write] [--keep FOLDER]

`--fast` takes three minutes, the whole a quarter of an hour. `--write` records what is found. The exit code is 1 if
something differs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tests.golden.scenarios import FAST, OWN_FOLDER, WHOLE, Digests, Scenario

RECORD: Final = Path(__file__).with_name("digests.json")
# What decides bytes beside our code.
_LIBRARIES: Final = ("torch", "numpy", "pyarrow", "pillow", "torchvision", "open_clip_torch")


def made_with() -> dict[str, str]:
    return {"machine": platform.machine(), **{name: version(name) for name in _LIBRARIES}}


def digests(scenarios: Sequence[Scenario], folder: Path) -> Digests:
    found: Digests = {}
    for scenario in scenarios:
        at = folder / scenario.__name__ if scenario in OWN_FOLDER else folder
        at.mkdir(exist_ok=True)
        began = time.monotonic()
        found |= scenario(at)
        print(f"{time.monotonic() - began:5.0f} s  {scenario.__name__}", flush=True)
    return found


def differences(found: Digests, recorded: Digests) -> list[str]:
    """Return the names whose bytes differ, or that one side lacks; what was not made is not asked for."""
    return [name for name in found if found[name] != recorded.get(name)]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--fast", action="store_true", help="a few scenes, and every export of them")
    parser.add_argument("--only", action="append", choices=[each.__name__ for each in WHOLE], help="may be repeated")
    parser.add_argument("--write", action="store_true", help="record what is found")
    parser.add_argument("--keep", type=Path, help="make it in this folder, and leave it there")
    asked = parser.parse_args(words)
    recorded = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {"digests": {}}
    found: Digests = {}
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        for scenario in FAST if asked.fast else WHOLE:
            if asked.only and scenario.__name__ not in asked.only:
                continue
            found |= digests([scenario], asked.keep or Path(folder))
            if asked.write:
                whole = {"made_with": made_with(), "digests": {**recorded["digests"], **found}}
                RECORD.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    if asked.write:
        return 0
    if recorded["made_with"] != made_with():
        print(f"the record was made with {recorded['made_with']}: write it anew at the commit to compare with")
    different = differences(found, recorded["digests"])
    print(*(f"differs: {name}" for name in different), f"{len(found) - len(different)} of {len(found)} equal", sep="\n")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())

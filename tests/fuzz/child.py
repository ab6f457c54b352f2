"""The process that reads damaged inputs: `python -m tests.fuzz.child MODULE:TARGET FOLDER`.

Each line of standard input is the path of an input. The answer is a line of JSON with a kind: `read`, `refused` (by an
error of the project), `memory`, or `error` (any other). The first answer, `ready`, comes after all sound inputs were
read. From then on the address space may grow by 512 MB.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from pseudoris.primitives.errors import PseudorisError

MAX_GROWTH_BYTES = 512 * 2**20


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    faulthandler.enable()
    target = importlib.import_module(module).TARGETS[name]
    read = target.prepare(Path(sys.argv[2]))
    sound = [_answer(read, seed) for seed in target.seeds()]
    gc.collect()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    size_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes + MAX_GROWTH_BYTES, hard))
    print(json.dumps({"kind": "ready", "sound": sound}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(read, Path(line.strip()).read_bytes())), file=answers, flush=True)


def _answer(read: Any, data: bytes) -> dict[str, str]:
    try:
        read(data)
    except PseudorisError as error:
        return {"kind": "refused", "what": f"{type(error).__name__}: {error}"[:500]}
    except MemoryError:
        return {"kind": "memory", "what": f"more than {MAX_GROWTH_BYTES:,} bytes\n{traceback.format_exc()[-2_000:]}"}
    except Exception:  # noqa: BLE001  # it is what the fuzzer looks for
        return {"kind": "error", "what": traceback.format_exc()[-4_000:]}
    return {"kind": "read", "what": ""}


if __name__ == "__main__":
    main()

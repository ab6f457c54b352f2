"""Proves in a child process, with bounds of memory and time, that transformers can open a stage's model folder.

Called where a run's identity is first measured, and by `doctor`: a chat template of ten letters may ask for gigabytes,
a config for millions of layers, a tokenizer for millions of merges. What is proven is then opened in other processes.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
from typing import Final

from pseudoris.images.child_process import (
    address_space_bytes,
    end_child,
    limit_memory,
    lower_limit,
    reserve_stdout,
    start_child,
)
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import mask_logs, parse_json
from pseudoris.primitives.uris import RECORDED
from pseudoris.schemas.config import RunConfig
from pseudoris.workers.checkpoints.model_folder import KNOWN_SHA256
from pseudoris.workers.stages import StageKind, stages_named

# What a folder may take beyond the libraries. Without weights the largest known take 1 GiB and 5 seconds.
_MAX_BYTES: Final = 4 * 2**30
_MAX_CPU_S: Final = 30
_END_TIMEOUT_S: Final = 600.0
# Each thread of a library would take addresses.
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")


def prove_folder(kind: StageKind, config: RunConfig) -> None:
    """Refuse the stage's model folder, if it has one that cannot be opened within the bounds; a ConfigError."""
    folder = kind.folder(config)
    if folder is None:
        return
    # The digests are taken here, so that the shards are read once.
    _ = folder.sha256
    known = [[*key, sha256] for key, sha256 in KNOWN_SHA256.items()]
    child = start_child(__spec__.name, environment=_ONE_THREAD)
    try:
        told, _ = child.communicate(json.dumps([kind.name, config.model_dump_json(), known]).encode(), _END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        told = b""
    status = end_child(child, timeout_s=0)
    if status == -signal.SIGXCPU:
        told = f"transformers takes more than {_MAX_CPU_S} s to open it".encode()
    if told or status:
        reason = told.decode("utf-8", "replace") or f"a process that opened it ended with status {status}"
        raise ConfigError(reason if folder.uri in reason else f"model '{folder.uri}': {reason}")


def _bound() -> None:
    limit_memory(address_space_bytes(), _MAX_BYTES)
    used = resource.getrusage(resource.RUSAGE_SELF)
    lower_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + _MAX_CPU_S)


def main() -> None:
    """Answer why the folder of the stage on the standard input is refused; nothing if it is not."""
    mask_logs()
    requests, answers = reserve_stdout()
    name, text, known = parse_json(requests.read())
    config = RunConfig.model_validate_json(text, context=RECORDED)
    (kind,) = stages_named((name,))
    KNOWN_SHA256.update({tuple(key): sha256 for *key, sha256 in known})
    kind.engine(config)
    import transformers

    told = ""
    _bound()
    try:
        kind.weights_digest(config)
    except ConfigError as error:
        told = str(error)
    except MemoryError:
        told = f"transformers takes more than {_MAX_BYTES:,} bytes of memory to open it"
    # Templates and tokenizers of strangers raise any type; a panic of Rust is no Exception.
    except BaseException as error:  # noqa: BLE001  # as above
        reason = str(error).partition("\n")[0][:200]
        told = f"transformers {transformers.__version__} cannot open it ({type(error).__name__}: {reason})"
    answers.write(told.encode())
    answers.flush()


if __name__ == "__main__":
    main()

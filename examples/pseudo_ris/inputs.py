"""What a table reads that is in no download: a share of REFER's human references, PhraseCut by its categories."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from examples.step_log import replace_bytes
from pseudoris.interchange.exclusions import TRAIN_SPLIT
from pseudoris.interchange.untrusted_pickle import read_refs
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import parse_json
from pseudoris.schemas.ids import sha256_hex

SEEN: Final = "seen"
UNSEEN: Final = "unseen"
_INSTANCES: Final = "instances.json"
_TEST: Final = "refer_test.json"


def write_share(dataset: Path, share: float, out: Path) -> Path:
    """Write a REFER dataset with a share of the references of `train`, at least one; a larger one holds a smaller one.

    Raises:
        ConfigError: The dataset has not one file of references, or it cannot be read.
    """
    files = sorted(dataset.glob("refs(*).p"))
    if len(files) != 1:
        raise ConfigError(f"{dataset} has {len(files)} files refs(…).p. One is needed.")
    try:
        instances = (dataset / _INSTANCES).read_bytes()
    except OSError as error:
        raise ConfigError(f"{error}. Put REFER's {_INSTANCES} there.") from None
    refs = [ref for ref in read_refs(files[0]) if ref["split"] == TRAIN_SPLIT]
    refs.sort(key=lambda ref: sha256_hex(str(ref["ref_id"]).encode()))
    share_of_refs = pickle.dumps(refs[: math.ceil(share * len(refs))], 2)
    return _write(out, {_INSTANCES: instances, files[0].name: share_of_refs})


def write_phrasecut(dataset: Path, refer: Path, out: Path) -> Path:
    """Write PhraseCut's test as two splits: `seen` has a category that REFER's annotation names, `unseen` all others.

    Raises:
        ConfigError: A file is missing, or is not of its dataset.
    """
    try:
        known = {
            category["name"]
            for path in refer.glob(f"*/{_INSTANCES}")
            for category in parse_json(path.read_bytes())["categories"]
        }
        tasks: dict[str, list[object]] = {SEEN: [], UNSEEN: []}
        for task in parse_json((dataset / _TEST).read_bytes()):
            tasks[SEEN if task["phrase_structure"]["name"] in known else UNSEEN].append(task)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"PhraseCut cannot be split by category: {error!r}. See {dataset} and {refer}.") from error
    return _write(out, {f"refer_{name}.json": json.dumps(chosen).encode() for name, chosen in tasks.items()})


def _write(out: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder named by what they hold, so that a finished import of others is refused."""
    folder = out.with_name(f"{out.name}-{sha256_hex(b''.join(files.values()))[:12]}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if not (folder / name).exists():
            replace_bytes(folder / name, data)
    return folder

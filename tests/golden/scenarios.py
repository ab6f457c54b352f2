"""What the golden digests are of: runs, exports and trainings that the command line makes in a given folder."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow.dataset as ds
import torch

from evidence.recipes.object_centric import write_object_centric
from pseudoris.schemas.ids import PART_NAME, part_name, sha256_hex
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.tables.shard_tables import bytes_of_version_5
from pseudoris.synthworld.demo import write_demo
from pseudoris.training.learning.checkpoint_folder import CHECKPOINT_NAME, load_checkpoint
from tests.builders.command import pseudoris_here
from tests.builders.images import png
from tests.builders.runs import write_source
from tests.builders.s3 import ENVIRONMENT, serving_s3
from tests.faults.trials import FORMATS, Command, annotation, start

Digests = dict[str, str]
# One instruction set and one thread, so that every processor with AVX2 rounds alike.
PINNED: Final[Mapping[str, str]] = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
PRESETS: Final = ("tiny", "tiny-composed")
# An image that raises until it is tried again, and one that ends its process.
_FAULTS: Final = "masks.options={raises_on: a/image-012.png, raises_times: 2, tally: tally, kills_on: b/image-013.png}"
_LOCAL: Final = ("--address", "local")


def run(words: Sequence[str], at: Path, program: Sequence[str] = Command.program) -> None:
    """Run a command in a folder, and raise with what it said unless it ends well."""
    ended = start(words, at, program, variables=PINNED)
    said = ended.communicate()[0]
    if ended.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {ended.returncode}\n{said}")


def digest_of(files: Mapping[str, bytes]) -> str:
    whole = hashlib.sha256()
    for name, data in sorted(files.items()):
        whole.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return whole.hexdigest()


def run_digests(name: str, out: Path) -> Digests:
    """The digests of a run's tables, and of what version 0.6.0 would have written: its bytes must not change."""
    found: Digests = {}
    for table in SCHEMAS:
        parts = {path.name: path.read_bytes() for path in (out / table).glob("*.parquet")}
        found[f"{name}/{table}"] = digest_of(parts)
        before = [(PART_NAME.fullmatch(part), bytes_of_version_5(table, data)) for part, data in parts.items()]
        named = {part_name(int(at[1]), int(at[2]), sha256_hex(data)): data for at, data in before if at}
        found[f"{name}/{table} of 0.6.0"] = digest_of(named)
    return found


def folder_digest(folder: Path) -> str:
    """Return the digest of all files below a folder, but of the export's records, which name the run and its time."""
    records = ("_export.json", "croissant.json")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in records)
    return digest_of({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


def demo(at: Path, scenes: int = 8) -> Digests:
    """The demo's scenes and broken images with both presets, into `run-tiny` and `run-tiny-composed`."""
    run(("demo", "demo", "--scenes", str(scenes)), at)
    found: Digests = {}
    for preset in PRESETS:
        (out,) = (at / "demo").glob(f"{preset}-{scenes}-*")
        found |= run_digests(f"{preset}, {scenes} scenes", out)
        (at / f"run-{preset}").symlink_to(out)
    return found


def exports(at: Path) -> Digests:
    """Every export of the composed run of the demo."""
    for name in FORMATS:
        ended = pseudoris_here("export", "run-tiny-composed", f"to-{name}", "--format", name, cwd=at)
        if ended.returncode:
            raise RuntimeError(ended.stderr)
    return {f"export {name}": folder_digest(at / f"to-{name}") for name in FORMATS}


def ready_masks(at: Path) -> Digests:
    """The masks of the demo's run, given back as a file an image."""
    rows = ds.dataset(at / "run-tiny" / "masks").to_table().to_pylist()
    for image in ds.dataset(at / "run-tiny" / "images").to_table().to_pylist():
        names = ("segmentation", "predicted_iou", "stability_score")
        masks = [{name: row[name] for name in names} for row in rows if row["image_id"] == image["image_id"]]
        size = {"height": image["height"], "width": image["width"]}
        (at / "ready").mkdir(exist_ok=True)
        (at / "ready" / image["key"]).with_suffix(".json").write_text(
            json.dumps({"image": size, "annotations": masks}), encoding="utf-8"
        )
    words = ("masks.engine=ready", "masks.weights.uri=/nowhere/sam.pth", f"masks.options.folder={at / 'ready'}")
    settings = [part for word in words for part in ("--set", word)]
    run(("annotate", "--preset=tiny", "demo/images", "out-ready", *_LOCAL, *settings), at)
    return run_digests("ready masks", at / "out-ready")


def large(at: Path) -> Digests:
    """The demo as it is shipped, and 200 scenes in shards of 16."""
    shipped, many = at / "shipped", at / "many"
    shipped.mkdir()
    found = demo(shipped, 64)
    write_demo(many, num_scenes=200)
    run(("annotate", "--preset=tiny", "many/images", "many/run", *_LOCAL, "--set", "shards.max_images=16"), at)
    return found | run_digests("200 scenes", many / "run")


def faults(at: Path) -> Digests:
    """Broken images and one that kills its process, one retry, one extension, one refilter; with stub engines."""
    write_source(at / "images", 40)
    run(annotation(options=_FAULTS), at)
    found = run_digests("broken images", at / "run")
    run(annotation("--retry-failed", options=_FAULTS), at)
    found |= run_digests("retried", at / "run")
    for index in range(20):
        (at / "images" / "c" / f"later-{index:03d}.png").write_bytes(png(seed=index))
    run(annotation("--extend", options=_FAULTS), at)
    found |= run_digests("extended", at / "run")
    run(("refilter", "run", "refiltered", "--tau", "0.9"), at)
    return found | run_digests("refiltered", at / "refiltered")


def kill_at_first_receipt(words: Sequence[str], at: Path, out: Path) -> None:
    """Run a command in a folder until its run `out` has a receipt, and kill it; raise where it ends before."""
    driver = start(words, at, variables=PINNED)
    while driver.poll() is None and not any((out / "_receipts").glob("*.json")):
        time.sleep(0.02)
    if driver.poll() is None:
        os.killpg(driver.pid, signal.SIGKILL)
    said = driver.communicate()[0]
    if driver.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the driver ended before it was killed:\n{said}")


def resumed(at: Path) -> Digests:
    """A driver that is killed after its first receipt, and started again; with stub engines."""
    write_source(at / "images", 40)
    kill_at_first_receipt(annotation(), at, at / "run")
    run(annotation(), at)
    return run_digests("resumed", at / "run")


def on_s3(at: Path) -> Digests:
    """The demo's scenes, read from S3 and written there."""
    os.environ.update(ENVIRONMENT)
    with serving_s3() as server:
        os.environ["AWS_ENDPOINT_URL"] = server.endpoint_url
        bucket = server.new_bucket()
        source = server.put_folder(at / "demo" / "images", bucket, "in")
        run(("annotate", "--preset=tiny", source, f"s3://{bucket}/out", *_LOCAL), at)
        return {f"tiny on S3/{table}": digest_of(server.objects(bucket, f"out/{table}/")) for table in SCHEMAS}


def trainings(at: Path) -> Digests:
    """The data of PPT; 20 steps or so of a chooser, of a segmenter and of PPT."""
    write_object_centric(at / "objects", num_images=16)
    run(("ppt", "objects", "objects/images", "d-sem"), at)
    run(("ppt", "compose", "d-sem", "d-ref"), at)
    run(("ppt", "pairs", "run-tiny", "h"), at)
    found = {key: value for name in ("d-sem", "d-ref", "h") for key, value in run_digests(name, at / name).items()}
    learnt = ("run-tiny", "--steps", "20", "--out")
    run(("train", "student", *learnt, "chooser"), at)
    run((*learnt, "segmenter"), at, program=("-m", "evidence.experiments.segmenter"))
    found |= {kind: _weights(at / kind) for kind in ("chooser", "segmenter")}
    data = ("--d-sem", "d-sem", "--d-ref", "d-ref", "--h", "h")
    run(("train", "ppt", *data, "--out", "ppt", "--set", "curriculum.epochs_factor=0.05"), at)
    rounds = sorted(path.parent for path in (at / "ppt").glob(f"*/{CHECKPOINT_NAME}"))
    return found | {f"ppt {each.name}": _weights(each) for each in rounds}


def _weights(folder: Path) -> str:
    module = load_checkpoint(folder / CHECKPOINT_NAME)["module"]
    return digest_of({name: each.reshape(-1).view(torch.uint8).numpy().tobytes() for name, each in module.items()})


Scenario = Callable[[Path], Digests]
# In their order: later ones read what earlier ones leave.
FAST: Final[tuple[Scenario, ...]] = (demo, exports, ready_masks)
WHOLE: Final[tuple[Scenario, ...]] = (*FAST, on_s3, trainings, faults, resumed, large)
# These have a source of their own, which the next one's would meet.
OWN_FOLDER: Final = frozenset({faults, resumed})

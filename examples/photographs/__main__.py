"""Speed, memory and accuracy on your photographs in one command, for whoever has the weights or a GPU.

    python -m examples.photographs SOURCE OUT [--preset base] [--images 200] [--set KEY=VALUE ...]

The command gets the weights, copies a random sample of SOURCE to OUT/sample, annotates it, composes anew with weights
in the sample's units where a preset composes for any captioner, runs `evidence.benchmarks.gpu_session` where torch sees
a GPU, draws an audit, and writes the page on which a person judges.
Put the file that this page downloads into OUT/judged and give the same command again: OUT/photographs.json and the page
OUT/photographs.html then have the accuracy, with its interval. Interrupted, the same command goes on. Other settings
for the same OUT are refused by name.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Final

import psutil
import typer

from examples.step_log import StepLog, read_record, run_pseudoris, write_record
from pseudoris.audit.draw_files import DRAW_NAME
from pseudoris.primitives.errors import ConfigError, ImageError, PseudorisError
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import composes_for_any_captioner, load_config
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import Identity
from pseudoris.store.runs.plan import assign_shards
from pseudoris.store.sources import open_source
from pseudoris.store.sources.planned_images import read_entries
from pseudoris.store.sources.source import absolute_source

# As `estimate` has them: in one or two shards, reading and models would not work side by side.
_NUM_SHARDS: Final = 16
_MEBIBYTE: Final = 2**20
# By `evidence.benchmarks.gpu_session`.
_MEASURED: Final = ("base", "paper")


def main(
    source: Annotated[str, typer.Argument(help="Photographs: what `pseudoris annotate` takes.")],
    out: Annotated[Path, typer.Argument(help="Folder for everything that is written.")],
    preset: Annotated[
        str,
        typer.Option(help="base, paper, tiny; open (never run with trained weights); base-composed, open-composed."),
    ] = "base",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the annotation.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Number of images, drawn uniformly.")] = 200,
    pairs: Annotated[int, typer.Option(min=2, help="Number of pairs to judge.")] = 200,
) -> None:
    """Measure, and draw what a person judges; after judging, the same command writes the figures and their page."""
    # It is this machine that is measured: no cluster takes part unless the user names one.
    words = [f"shards.max_images={-(-images // _NUM_SHARDS)}", "placement.address=local", *(settings or ())]
    given = [f"--set={word}" for word in words]
    judged = out / "judged"
    try:
        config = load_config(preset, None, words)
        asked = {"source": absolute_source(source), "preset": preset, "images": images, "pairs": pairs}
        _check_made(out, {**asked, "method": config.method()}, config)
        log = StepLog(out / "steps")
        log.step("weights", lambda: _get_weights(preset, given))
        log.step("sample", lambda: copy_sample(source, out, config, size=images))
        log.step("annotate", lambda: _annotate(out, ["--preset", preset, *given]))
        if composes_for_any_captioner(config):
            log.step("compose", lambda: _compose_anew(out))
        log.step("benchmark", lambda: measure_gpu(out, preset))
        log.step("audit", lambda: _audit(out, pairs))
        judged.mkdir(exist_ok=True)
        if files := sorted(judged.glob("*.jsonl")):
            run_pseudoris("audit", "add", out / "audit", *files)
        # Imported here: it draws pictures, and its memory would count as the annotation's.
        from examples.photographs.results import write_results

        typer.echo(f"page: {write_results(out, log.records())}")
    except PseudorisError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if not files:
        typer.echo(
            f"Next, judge: open {out / 'page' / 'index.html'} in a browser, put the file that it downloads into "
            f"{judged}, and give the same command again."
        )


def _check_made(out: Path, given: Mapping[str, Any], config: RunConfig) -> None:
    """Refuse an OUT that something else made: a finished step is known by its name alone."""
    made = read_record(out, "given")
    if made is None:
        # A command that was stopped at once leaves `records` without this record.
        if out.is_dir() and any(path.name != "records" for path in out.iterdir()):
            raise ConfigError(f"{out} holds files of something else. Name another OUT")
        if out.resolve().is_relative_to(Path(given["source"]).resolve()):
            raise ConfigError(f"OUT {out} is inside SOURCE, which would then list its copies. Name a folder outside it")
        open_source(given["source"], config.source).check_not_empty()
        try:
            write_record(out, "given", given)
        except OSError as error:
            raise ConfigError(f"OUT {out} cannot be written ({error.strerror}). Name another folder") from None
        return
    names = [name for name in given if name != "method" and made.get(name) != given[name]]
    others = [f"{name}: {made.get(name)!r} in OUT, {given[name]!r} now" for name in names]
    bare = Identity(method=given["method"], weights={}, device_kind="none", versions={})
    # Of another preset, dozens of settings differ.
    if others := others or bare.model_copy(update={"method": made["method"]}).differences(bare):
        raise ConfigError(f"{out} was made otherwise. Give what made it, or another OUT.\n" + "\n".join(others))


def _get_weights(preset: str, given: Sequence[str]) -> None:
    # Files that are here need no network.
    check = [sys.executable, "-m", "pseudoris", "weights", "check", preset, *given]
    if subprocess.run(check, capture_output=True, check=False).returncode:
        run_pseudoris("weights", "get", preset, *given)


def copy_sample(source: str, out: Path, config: RunConfig, *, size: int) -> None:
    """Copy a sample of any kind of SOURCE as files named by image id: a key may be longer than a file's name."""
    # Imported here: it loads Ray Data.
    from pseudoris.pipeline.sample_estimate import draw_sample

    # A glob may match in OUT.
    listing = open_source(source, config.source, exclude=str(out.absolute()))
    keys, unread = dict[str, str](), dict[str, str]()
    sample, tally = draw_sample(listing.list(), config, size=size, seed=config.compute.seed)
    shutil.rmtree(out / "sample", ignore_errors=True)
    (out / "sample").mkdir()
    # Positions count within a shard.
    for _, shard in groupby(assign_shards(sample, config.shards), key=lambda entry: entry.shard):
        entries = {entry.position: entry for entry in shard}
        for position, outcome in read_entries(listing.root, list(entries.values()), config):
            key = entries[position].key
            if isinstance(outcome, ImageError):
                unread[key] = outcome.reason
                continue
            # A row of a table has no extension.
            ending = next((each for each in config.source.extensions if key.lower().endswith(each)), ".jpg")
            keys[image_id(key)] = key
            (out / "sample" / f"{image_id(key)}{ending}").write_bytes(outcome)
    write_record(out, "keys", keys)
    write_record(out, "sample", {"listed": tally.num_images, "drawn": len(sample), "unread": unread})


def _annotate(out: Path, given: Sequence[str]) -> None:
    with watched_gpus() as used_mib:
        run_pseudoris("annotate", out / "sample", out / "annotation", *given)
    machine = {"cores": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    write_record(out, "machine", {**machine, "gpu_peak_bytes": max(used_mib) * _MEBIBYTE if used_mib else None})


def _compose_anew(out: Path) -> None:
    """Write OUT/composed: the annotation, composed with weights that have the units and the nouns of its captions."""
    run_pseudoris("calibrate", out / "annotation", "--composer", "--to", out / "fitted.yaml")
    run_pseudoris("refilter", out / "annotation", out / "composed", "--weights", out / "fitted.yaml")


@contextmanager
def watched_gpus() -> Iterator[list[int]]:
    """Yield a list that at the end gets the MiB in use on each GPU, once a second; none without a GPU."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--loop=1"]
    used_mib: list[int] = []
    with TemporaryFile() as samples:
        watcher = subprocess.Popen(query, stdout=samples) if shutil.which(query[0]) else None
        try:
            yield used_mib
        finally:
            if watcher is not None:
                watcher.terminate()
                watcher.wait()
            # Only now: the watcher writes where this reads.
            samples.seek(0)
            used_mib += [int(line) for line in samples if line.strip().isdigit()]


def measure_gpu(out: Path, preset: str) -> None:
    """Keep what `evidence.benchmarks.gpu_session` measures of a preset's stages, and why some or all is missing."""
    # Imported here: its memory would count as the annotation's.
    import torch

    path, note = out / "records" / "gpu.jsonl", "no GPU on this machine"
    if torch.cuda.is_available() and preset not in _MEASURED:
        note = f"it measures the presets {' and '.join(_MEASURED)} alone"
    elif torch.cuda.is_available():
        command = [sys.executable, "-m", "evidence.benchmarks.gpu_session", "--items", "profile", "--out", str(path)]
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        # What fails is told on the page. It does not stop the audit.
        said = ended.stderr.strip() or f"exit code {ended.returncode}"
        note = said.splitlines()[-1] if ended.returncode else ""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    rows = [line for line in lines if "figures" in line and f" preset={preset} " in line["case"]]
    write_record(out, "benchmark", {"not_measured": note, "rows": rows})


def _audit(out: Path, pairs: int) -> None:
    if not (out / "audit" / DRAW_NAME).exists():
        composed = out / "composed"
        run = composed if composed.exists() else out / "annotation"
        run_pseudoris("audit", "draw", run, out / "audit", "-n", str(pairs))
    run_pseudoris("audit", "page", out / "audit", "--to", out / "page")


if __name__ == "__main__":
    typer.run(main)

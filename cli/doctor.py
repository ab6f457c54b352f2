"""`pseudoris doctor`: checks in seconds, before a GPU is taken, what would stop a run. Called by `main`.

Each check is one line of the report: a problem never hides the next check. It starts no Ray, downloads no weights and
leaves no file behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from pseudoris.cli import options
from pseudoris.cli.console import note, stdout
from pseudoris.cli.formats import columns_table, format_bytes
from pseudoris.cli.options import argument, option
from pseudoris.files.location import RunLocation
from pseudoris.images.pixels import header_size
from pseudoris.pipeline.run_contract import RunOptions, asked_preset, check_options, tile_sentence
from pseudoris.primitives.errors import ConfigError, ImageError, PseudorisError
from pseudoris.primitives.extras import require_extra
from pseudoris.primitives.machine_limits import SHARED, check_limits, memory_limit, told_by_limit
from pseudoris.primitives.untrusted import printable
from pseudoris.primitives.uris import writable
from pseudoris.schemas.card_settings import AUTO, choices_of_card, decoder_choices
from pseudoris.schemas.config import PriorConfig, RunConfig
from pseudoris.schemas.config_layers import as_begun, load_config
from pseudoris.store.exclusion_rules import key_path
from pseudoris.store.runs.header import check_identity, planned_source
from pseudoris.store.runs.plan import assign_shards
from pseudoris.store.runs.planned_run import may_give_way, package_versions
from pseudoris.store.sources import SourceItem, open_source
from pseudoris.store.sources.planned_images import read_entries
from pseudoris.store.sources.root import SourceRoot
from pseudoris.store.sources.source import absolute_source

if TYPE_CHECKING:
    from pseudoris.workers.stages import StageKind

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "segment-anything", "ray", "pyarrow", "pillow")
# With less free disk or memory than this, a run starts but will probably fail early.
_MIN_FREE_DISK_BYTES = 2 * 2**30
_MIN_MEMORY_BYTES = 4 * 2**30
# A GPU with less free memory is reported, because weights exist twice while they load, at four bytes per parameter.
_MIN_GPU_MEMORY_BYTES = 8 * 2**30
# At most this many files are listed, because the check must take seconds even for a bucket of millions.
_MAX_LISTED = 100_000
_NUM_SHOWN = 3
_HASTY = ("placement.storage.patience_s=6", "placement.storage.read_timeout_s=6")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: what was looked at, whether it holds, and what was found or must be done.

    `is_ok` is None for what cannot be checked on this machine.
    """

    name: str
    is_ok: bool | None
    detail: str

    @property
    def summary(self) -> str:
        """Its first sentence, for the table; a sentence with a url is shown below the table instead."""
        sentence = self.detail.partition(". ")[0].partition("\n")[0]
        return "see below" if "://" in sentence else sentence


def doctor(
    source: Annotated[
        str | None, argument("SOURCE", "Images of the planned run. Checks that they can be listed.")
    ] = None,
    out: Annotated[str | None, argument("OUT", "Output of the planned run. Checks that it can be written.")] = None,
    preset: options.Preset = None,
    config_file: options.ConfigFile = None,
    assignments: options.Assignments = None,
    on_cpus: options.OnCpus = False,
    accept_domain: options.AcceptDomain = False,
    card_memory: Annotated[
        float | None,
        option(
            "Print what `auto` is on a GPU of this memory; nothing is checked.",
            metavar="GIB",
            min=1,
            max=999,
        ),
    ] = None,
) -> None:
    """Check versions, weights, devices, memory and access rights before a run.

    The preset is the one that is named, or that of the run in OUT, else tiny; the first line says which. Exit code 1 if
    there is a problem.
    """
    named, given = None, options.words(assignments, {}, on_cpus=on_cpus)
    # A problem with OUT becomes a line of the report. A problem with the settings is raised by `load_config` below.
    with contextlib.suppress(PseudorisError):
        named = asked_preset(preset, config_file, [*given, *_HASTY], out=out)
    config = load_config(named, config_file, given)
    if card_memory is not None and (source or out):
        raise typer.BadParameter("it checks nothing: leave out SOURCE and OUT", param_hint="--card-memory")
    if card_memory is not None:
        _print_choices(config, card_memory)
        return
    title = f"doctor, preset {config.preset}{'' if named else ', as none is named. annotate asks for one'}"
    checks = list(run_checks(config, source=source, out=out))
    words = {True: Text("ok", "green"), False: Text("off", "red"), None: Text("–", "yellow")}
    rows = ((words[each.is_ok], each.name, each.summary if each.is_ok is False else each.detail) for each in checks)
    stdout.print(columns_table(("", "check", "found"), rows, title=title, num_texts=3))
    for check in checks:
        if check.is_ok is False and check.summary != check.detail:
            # The remedy is printed below the table, because columns would break its commands and urls.
            rest = check.detail.removeprefix(check.summary).removeprefix(". ")
            stdout.print("", Text.assemble((check.name, "bold"), "  ", printable(rest)), sep="\n", soft_wrap=True)
    if any(check.is_ok is False for check in checks):
        raise typer.Exit(1)


def _print_choices(config: RunConfig, card_gib: float) -> None:
    """Print what `auto` is on a card of so many GiB that fixed shapes suit."""
    named = config.captions.decoder if config.captions.engine == "coca" else ""
    card = config.with_chosen(choices_of_card(card_gib * 2**30, has_bfloat16=True))
    found = card.with_chosen(decoder_choices("static" if named == AUTO else named)).decided(config)
    stdout.print(found.replace(", ", "\n") or f"{config.preset} leaves nothing to the card", soft_wrap=True)
    if "bfloat16" in found:
        note("below compute capability 8.0 compute.precision=float32")
    if named == AUTO and "crops_together" in found:
        note("where fixed shapes fail their proof captions.crops_together=1")


def run_checks(config: RunConfig, *, source: str | None, out: str | None) -> Iterator[Check]:
    """Yield one check after the other. A problem that a check finds is its result, not an error."""
    if lacks := _without_run():
        yield Check("device, packages", None, lacks)
        yield from _weights_alone(config)
    else:
        yield from _of_a_worker(config)
    if (prior := config.masks.prior).kind != "none":
        from pseudoris.workers.stages import prior_digest

        yield _attempt("instance prior", lambda: f"{prior.path}  sha256 {(prior_digest(prior) or '')[:12]}…")
    if config.filtering.nouns != "rules":
        from pseudoris.workers.filtering.spacy_nouns import check_spacy

        yield _attempt("head nouns", lambda: check_spacy(config.filtering))
    if source is not None:
        yield _attempt("source", lambda: _source(source, config, out))
    if out is not None:
        yield _attempt("output", lambda: _output(source, out, config))


def _of_a_worker(config: RunConfig) -> Iterator[Check]:
    """Yield what only a machine that can run models knows."""
    yield _attempt("python and packages", _versions)
    yield _attempt("device", lambda: _device(config))
    from pseudoris.workers.stages import decoder_words

    if decoder_words(config):
        yield _attempt("captions by", lambda: _decoder(config))
    yield _attempt("memory", _memory)
    from pseudoris.pipeline.cluster import temporary_folder

    yield _attempt("limits", lambda: check_limits(temporary=temporary_folder(), shared=SHARED))
    yield from _weights(config)


def _without_run() -> str:
    """Return why this machine cannot check what a worker can; empty if it can."""
    try:
        require_extra("run", "a run")
    except ConfigError as error:
        return (
            f"{error}. Not checked here: device, memory, limits, versions of packages, and whether the weights can be "
            "loaded. Run `pseudoris doctor` on a machine that works too."
        )
    return ""


def _weights_alone(config: RunConfig) -> Iterator[Check]:
    from pseudoris.workers.checkpoints.weight_files import check_weights
    from pseudoris.workers.stages import STAGES

    for stage in STAGES:
        is_ok, detail = check_weights(stage.settings(config).weights, config.preset or "")
        yield Check(f"weights: {stage.name}", is_ok, detail)


def _attempt(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except PseudorisError as error:
        return Check(name, False, str(error))
    except (OSError, RuntimeError, MemoryError, ImportError) as error:
        if (told := told_by_limit(error)) is None:
            raise
        return Check(name, False, told)


def _versions() -> str:
    try:
        found = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"The package {error.name} is not installed. In a clone run `make install`, elsewhere "
            f"`pip install {error.name}`."
        ) from None
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        # The cause is mostly that torchvision loads only with the version of torch that it was built for.
        raise ConfigError(
            f"{found}: torchvision cannot be imported ({error}). Install matching versions of torch and torchvision, "
            "such as torch==2.14.1 torchvision==0.29.1."
        ) from None
    del torchvision
    found = f"Python {sys.version.split()[0]}, {found}"
    if any(map(str.isspace, sys.executable)):
        # A path with a space does not stop local runs, so this is a hint and not a problem.
        found += (
            f". A Ray started from {sys.prefix!r} runs no submitted jobs: they stay PENDING, because its agent cannot "
            "start from a path with a space. For `ray job submit`, make the environment in another folder"
        )
    return found


def _device(config: RunConfig) -> str:
    if config.compute.device == "none":
        return "none: the engines compute without torch"
    import torch

    from pseudoris.workers.stages import decided_here, device_kind

    kind = device_kind(config.compute)
    if config.compute.device == "cpu":
        return f"{kind}, {os.cpu_count()} cores, {config.compute.threads} thread(s) per stage"
    free, total = torch.cuda.mem_get_info()
    if free < _MIN_GPU_MEMORY_BYTES:
        raise ConfigError(
            f"{kind}: only {format_bytes(free)} of {format_bytes(total)} is free. End the other "
            "processes that use the GPU."
        )
    pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY")
    # The daemon's sockets stay when the daemon ends, so only the pid file shows that it runs.
    if pipes is not None and not Path(pipes, "nvidia-cuda-mps-control.pid").exists():
        remedy = "start one (nvidia-cuda-mps-control -d), or unset the variable"
        raise ConfigError(f"CUDA_MPS_PIPE_DIRECTORY is {pipes!r}, but no daemon of NVIDIA's MPS runs there: {remedy}")
    from pseudoris.workers.captions.row_kernels import triton_version

    version, why = triton_version()
    attention = f"plain torch, slower than Triton's kernels ({why})" if why else f"Triton {version}"
    by_card = decided_here(config)[0].decided(config) or "nothing"
    return (
        f"{kind}, {format_bytes(free)} of {format_bytes(total)} free, attention by {attention}. By the card: {by_card}"
    )


def _decoder(config: RunConfig) -> str:
    import torch

    from pseudoris.workers.stages import decided_here, decoder_words

    if config.compute.device != "cuda" or not torch.cuda.is_available():
        return decoder_words(config)
    decided, why = decided_here(config)
    return decoder_words(config, decided.captions.decoder, why)


def _memory() -> str:
    import psutil

    limit, total = memory_limit()
    if total < _MIN_MEMORY_BYTES:
        needed = f"A local run needs {format_bytes(_MIN_MEMORY_BYTES)}"
        raise ConfigError(f"This machine has {limit.value} of memory. {needed}: {limit.remedy}.")
    available = min(psutil.virtual_memory().available, total)
    return f"{format_bytes(available)} available of {limit.value}"


def _weights(config: RunConfig) -> Iterator[Check]:
    from pseudoris.pipeline.identity import announce_endpoint
    from pseudoris.workers.stages import STAGES

    announce_endpoint(config.source)
    # The prior and the noun parser are left out, because other lines of the report check them.
    masks = config.masks.model_copy(update={"prior": PriorConfig()})
    filtering = config.filtering.model_copy(update={"nouns": "rules"})
    alone = config.model_copy(update={"masks": masks, "filtering": filtering})
    for stage in STAGES:
        yield _attempt(f"weights: {stage.name}", functools.partial(_digest, stage, alone))


def _digest(stage: StageKind, config: RunConfig) -> str:
    from pseudoris.workers.checkpoints.folder_proof import prove_folder
    from pseudoris.workers.checkpoints.weight_files import MissingWeightsError, is_missing, is_unfetched

    weights = stage.settings(config).weights
    # A run would download the file. This check does not, because it may have several gigabytes.
    if is_missing(weights):
        raise MissingWeightsError(weights, preset=config.preset)
    if is_unfetched(weights):
        return f"{weights.uri} exists: a run fetches it"
    prove_folder(stage, config)
    return f"{weights.uri}  sha256 {stage.weights_digest(config)[:12]}…"


def _source(source: str, config: RunConfig, out: str | None) -> str:
    listing = open_source(source, config.source, exclude=out, limits=config.placement.storage)
    first: list[SourceItem] = []
    num_files = 0
    for file, format_ in islice(listing.files(), _MAX_LISTED):
        num_files += 1
        if len(first) < _NUM_SHOWN:
            first += islice(listing.items(file, format_), _NUM_SHOWN - len(first))
    if not first:
        raise listing.lists_nothing()
    names = ", ".join(key_path(item.key) for item in first)
    texts = [f"{source} has images. The first are {names}", *listing.left_out.notices()]
    if sentence := tile_sentence(_sizes(listing.root, first, config), config):
        texts.append(sentence)
    if num_files == _MAX_LISTED:
        texts.append(f"only the first {num_files:,} files were looked at")
    return "\n".join(texts)


def _sizes(root: SourceRoot, items: Sequence[SourceItem], config: RunConfig) -> Iterator[tuple[int, int]]:
    """Yield (height, width) of the items whose header can be read."""
    for _, entries in groupby(assign_shards(items, config.shards), key=lambda entry: entry.shard):
        for _, outcome in read_entries(root, list(entries), config):
            with contextlib.suppress(ImageError, ConfigError):
                if not isinstance(outcome, ImageError):
                    yield header_size(outcome, config.images.decoder_plugins)


def _output(source: str | None, out: str, config: RunConfig) -> str:
    options.refuse_second_match(source or out, out)
    location = RunLocation.open(writable(out), config.source.endpoint_url, config.placement.storage.hasty())
    header = check_options(location, RunOptions())
    gives_way = header is not None and may_give_way(location, header, ())
    if header is not None and not gives_way:
        from pseudoris.pipeline.cluster import joins_cluster

        # Other lines of the report check weights and device. Nodes of a cluster have packages of their own.
        was = header.identity.versions
        here = {} if joins_cluster(config.placement.address) else package_versions(n for n in was if " " not in was[n])
        versions = was | {name: now for name, now in here.items() if "absent" not in (now, was[name])}
        method = as_begun(config, header.config).with_chosen(header.config.model_dump()).method()
        now = header.identity.model_copy(update={"method": method, "versions": versions})
        place = planned_source(header, absolute_source(source)) if source and header.origin == "annotate" else None
        check_identity(header, now, place, preset=config.preset, allow_mixed=config.placement.allow_mixed)
    folder = Path(location.root)
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    location.probe()
    # Folders that the probe has made are removed, because a check leaves nothing behind.
    while folder != existing and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
    found = f"{location.root} can be written"
    if header is not None:
        continues = "holds a run without results" if gives_way else "continues a run of these settings"
        found += f" and {continues}"
    if "://" in location.root:
        return f"{found}, and refuses to create a file twice"
    free = shutil.disk_usage(existing).free
    if free < _MIN_FREE_DISK_BYTES:
        raise ConfigError(
            f"{existing} has {format_bytes(free)} free. A run needs {format_bytes(_MIN_FREE_DISK_BYTES)}."
        )
    return f"{found}, {format_bytes(free)} free"

"""Measures a run's identity (method, weights, packages, device) and refuses a process that has another one.

Called by `run_plan` before a run is planned or continued, by `executor` and `shard_tasks` in each process, by
`sample_estimate` and `cli/doctor`. What computes or writes must be in it: equal identities must give equal bytes.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import entry_points, packages_distributions
from typing import Final

import ray

from pseudoris.images.child_process import start_child
from pseudoris.images.pixels import import_plugins
from pseudoris.pipeline.cluster import T, joins_cluster, task_result
from pseudoris.primitives.errors import ConfigError, gather
from pseudoris.schemas.config import ComputeConfig, FilterConfig, RunConfig, SourceConfig
from pseudoris.schemas.run_records import Identity
from pseudoris.store.runs.planned_run import package_versions
from pseudoris.workers.checkpoints.folder_proof import prove_folder
from pseudoris.workers.checkpoints.weight_files import is_awaited, is_unfetched
from pseudoris.workers.stages import (
    STAGE_CAPTION,
    STAGE_FILTER,
    STAGES,
    StageKind,
    decided_here,
    device_kind,
    device_versions,
    stages_named,
)

# Only processes with models use these packages. All processes use the others: they check images and write tables.
_MODEL_PACKAGES: Final = ("torch", "torchvision", "open_clip_torch", "segment-anything")
PACKAGES: Final = ("pseudoris", *_MODEL_PACKAGES, "pyarrow", "pillow", "numpy", "scipy")
# Drivers of Nvidia, of WSL and of AMD make one of these. Without any of them no process here gets a GPU.
_GPU_FILES: Final = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
# botocore reads the first variable. The second variable marks that a run has set the first one.
_ENDPOINT_VARIABLE: Final = "AWS_ENDPOINT_URL"
_ENDPOINT_MARK: Final = "PSEUDORIS_ANNOUNCED_ENDPOINT"


def identity_before_ray(
    config: RunConfig, stored: Mapping[str, str] | None = None, *, needs_gpu: bool = False
) -> Identity | None:
    """Return the identity of this machine; None if an existing cluster or a GPU does the work.

    On a cluster, weights, packages and devices are those of the nodes. For a GPU all else is measured, so that what is
    missing is told: only Ray's processes get a GPU. The kind of a CPU stays empty, see `cpu_measured_here`. If the run
    `needs_gpu` now and this machine has none, that is told with it, and nothing is downloaded.
    """
    if joins_cluster(config.placement.address):
        config.masks.prior.check_is_set()
        return None
    import_plugins(config.images.decoder_plugins)
    is_gpu = config.compute.device == "cuda"
    device = _check_gpu_files if is_gpu and needs_gpu else str
    here = measure_identity(
        config,
        sees_device=config.compute.device == "none",
        stored=stored,
        device_here=device,
        proves_folders=True,
    )
    if config.compute.device == "cpu":
        # A model folder must fit into this machine's memory. For a GPU, the process that loads it checks this.
        for folder in filter(None, (stage.folder(config) for stage in STAGES)):
            # torch is imported here, because most runs do not need it before Ray starts.
            import torch

            from pseudoris.workers.checkpoints.hf_models import check_fits
            from pseudoris.workers.device import compute_dtype

            check_fits(folder, torch.device("cpu"), compute_dtype(config.compute))
    return None if is_gpu else here


@contextmanager
def cpu_measured_here(compute: ComputeConfig) -> Iterator[Callable[[], str]]:
    """Measure the kind of this CPU in a child; yield what waits for it, or raises a ConfigError: torch is unusable."""
    child = start_child("pseudoris.workers.cpu_bits", compute.precision, stderr=subprocess.PIPE)

    def kind() -> str:
        told, errors = (stream.decode(errors="replace").split("\n") for stream in child.communicate())
        if child.returncode:
            why = errors[-2] if errors[1:] else f"exit status {child.returncode}"
            raise ConfigError(f"torch cannot compute on this machine ({why}): `pseudoris doctor` checks the packages")
        return told[-2]

    try:
        yield kind
    finally:
        child.kill()
        child.communicate()


def unfetched(config: RunConfig, stored: Collection[str]) -> list[str]:
    """Return the stages, but for those `stored`, whose weights a run would fetch; ConfigError if a store lacks them.

    Empty if a part is missing that no run can fetch: measuring the identity then says so.
    """
    stages = [stage for stage in STAGES if stage.name not in stored]
    if not joins_cluster(config.placement.address) and not may_download(config, stages):
        return []
    found = gather(*(partial(is_unfetched, stage.settings(config).weights) for stage in stages))
    return [stage.name for stage, is_missing in zip(stages, found, strict=True) if is_missing]


def identity_on_cluster(config: RunConfig, stored: Mapping[str, str] | None = None) -> tuple[Identity, RunConfig, str]:
    """Return the identity, measured on a node for the first model pool, and what `decided_here` says there."""

    def measure() -> tuple[Identity, RunConfig, str]:
        decided, slower = decided_here(config)
        return measure_identity(decided, stored=stored, proves_folders=True), decided, slower

    return on_model_node(config, measure)


def on_model_node(config: RunConfig, measure: Callable[[], T]) -> T:
    """Return what `measure` returns on a node that could run the first model pool."""
    pool = next(iter(config.model_pools().values()))
    task = ray.remote(lambda: measure()).options(
        num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, resources=dict(pool.resources), max_retries=1
    )
    return task_result(task.remote())


def measure_identity(
    config: RunConfig,
    stages: Sequence[StageKind] = STAGES,
    *,
    sees_device: bool = True,
    stored: Mapping[str, str] | None = None,
    device_here: Callable[[], str] = str,
    proves_folders: bool = False,
) -> Identity:
    """Return the identity of a run of `config` in this process, with the weights of `stages`.

    With `proves_folders` model folders are first opened in a child, as each process of a run need not do again. Without
    `sees_device` the device is what `device_here` returns: by default it stays empty. `stored` has the digests
    of stages that another run has computed.
    """
    # The S3 endpoint is set here, because every process that loads weights measures its identity first.
    announce_endpoint(config.source)
    stored = stored or {}
    stages = [stage for stage in stages if stage.name not in stored]
    if proves_folders:
        gather(*(partial(prove_folder, stage, config) for stage in stages))
    downloads = may_download(config, stages) and _returns(device_here)
    digests = (partial(stage.weights_digest, config, downloads=downloads) for stage in stages)
    *digest_of, device = gather(*digests, partial(device_kind, config.compute) if sees_device else device_here)
    weights = {**stored, **dict(zip((stage.name for stage in stages), digest_of, strict=True))}
    fitted = config.filtering.fitted
    if fitted is not None and (config.filtering.fitted_values.confidence is not None or config.composing is not None):
        other = fitted.values.other_models(weights)
        if other:
            raise ConfigError(
                f"filtering.fitted.uri={fitted.uri} was fitted with other models than this run has "
                f"({', '.join(other)}): name a file that was fitted with them (`pseudoris calibrate`, "
                "docs/guides/listener.md), or set filtering.fitted=null, which composes with weights for any captioner"
            )
    folders = {stage.name: folder.identity for stage in stages if (folder := stage.folder(config)) is not None}
    return Identity(
        method=config.method(),
        weights=weights,
        device_kind=device,
        versions=package_versions((*PACKAGES, *_further_packages(config)))
        | _parser(config.filtering)
        | (device_versions(config) if sees_device or config.compute.device == "cpu" else {}),
        folders=folders,
    )


def has_gpu_files() -> bool:
    """Return whether a driver of GPUs is here. Torch, which knows better, takes seconds to load."""
    return any(map(os.path.exists, _GPU_FILES))


def _check_gpu_files() -> str:
    if not has_gpu_files():
        raise ConfigError(
            f"compute.device=cuda, but this machine has no GPU (none of {', '.join(_GPU_FILES)}): run where one is, "
            "or compute on CPUs, slowly: --on-cpus"
        )
    return ""


def _returns(look: Callable[[], str]) -> bool:
    try:
        look()
    except ConfigError:
        return False
    return True


def may_download(config: RunConfig, stages: Sequence[StageKind]) -> bool:
    """Return whether to fetch weights of `stages`: not if one of them is missing that no run can fetch."""
    awaited = [stage for stage in stages if is_awaited(stage.settings(config).weights)]
    try:
        # The other weights are checked only if a download is needed, because a check reads whole files.
        gather(*(partial(stage.weights_digest, config) for stage in stages if awaited and stage not in awaited))
    except ConfigError:
        return False
    return True


def announce_endpoint(source: SourceConfig) -> None:
    """Make `source.endpoint_url` the endpoint of S3 clients that open weights and priors by url.

    An endpoint of the environment is kept: it was set for this machine. That of an earlier run here is removed.
    """
    found, mark = os.environ.get(_ENDPOINT_VARIABLE), os.environ.get(_ENDPOINT_MARK)
    if found is not None and found != mark:
        return
    for name in (_ENDPOINT_VARIABLE, _ENDPOINT_MARK):
        if source.endpoint_url is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = source.endpoint_url


def check_process(identity: Identity, config: RunConfig, stages: Sequence[StageKind]) -> tuple[str, ...]:
    """Accept this process for `stages` if its weights, packages and device equal those of the run.

    Returns the differences that `placement.allow_mixed` accepts, one line per field; all others raise a ConfigError.
    """
    names = {stage.name for stage in stages}
    held = {name: digest for name, digest in identity.weights.items() if name in names}
    folders = {name: parts for name, parts in identity.folders.items() if name in names}
    # The method is taken from the run, so only weights, packages and device of this process are checked.
    here = measure_identity(config, stages).model_copy(update={"method": identity.method})
    # The engine vlm may load the filter's CLIP too, to compare masks. Its digest is then checked too.
    is_asked = config.captions.engine == "vlm" and config.captions.options.get("similarity", "clip") == "clip"
    if STAGE_CAPTION in names and STAGE_FILTER not in names and is_asked:
        (scorer,) = stages_named((STAGE_FILTER,))
        held[STAGE_FILTER] = identity.weights[STAGE_FILTER]
        here = here.model_copy(update={"weights": {**here.weights, STAGE_FILTER: scorer.weights_digest(config)}})
    of_run = identity.model_copy(update={"weights": held, "folders": folders})
    return _check(of_run, here, allow_mixed=config.placement.allow_mixed)


def check_packages(identity: Identity, config: RunConfig) -> tuple[str, ...]:
    """Do as `check_process` for reading and committing: only the packages of these tasks count, and none is torch."""
    used = ({*PACKAGES} - {*_MODEL_PACKAGES}) | {*_decoder_packages(config.images.decoder_plugins)}
    names = used & identity.versions.keys()
    here = identity.model_copy(update={"versions": {**identity.versions, **package_versions(names)}})
    return _check(identity, here, allow_mixed=config.placement.allow_mixed)


def _check(of_run: Identity, here: Identity, *, allow_mixed: bool) -> tuple[str, ...]:
    accepted = tuple(of_run.mixed_differences(here)) if allow_mixed else ()
    differences = [line for line in of_run.differences(here) if line not in accepted]
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        mixing = ", or accept this with --allow-mixed" if differences == of_run.mixed_differences(here) else ""
        raise ConfigError(
            f"a process on {platform.node()} does not match the run and could give other results:\n{lines}\n"
            "Install the same weights and packages on every node, and keep the pools on one kind of device with "
            f"placement.<pool>.resources{mixing}"
        )
    return accepted


def _further_packages(config: RunConfig) -> list[str]:
    """Return the distributions, other than `PACKAGES`, that a run of `config` uses, sorted."""
    names = set(_decoder_packages(config.images.decoder_plugins))
    if config.filtering.nouns != "rules":
        names.add("spacy")
    for stage in STAGES:
        if (folder := stage.folder(config)) is not None:
            names.update(folder.packages)
        engines = entry_points(group=stage.group, name=stage.settings(config).engine)
        names.update(entry.dist.name for entry in engines if entry.dist is not None)
    return sorted(names.difference(PACKAGES))


def _parser(config: FilterConfig) -> dict[str, str]:
    """Return the version of spaCy's model and the digest of its files, as equal versions may differ; {} without it."""
    if config.nouns != "spacy":
        return {}
    from pseudoris.workers.filtering.spacy_nouns import SPACY_MODEL, pipeline_digest

    digest = pipeline_digest(config)[:16]
    return {SPACY_MODEL: f"{package_versions([SPACY_MODEL])[SPACY_MODEL]} sha256:{digest}"}


def _decoder_packages(plugins: Sequence[str]) -> Iterator[str]:
    """Yield the distributions of the decoder plug-ins; a module without a distribution is named by itself."""
    distributions = packages_distributions() if plugins else {}
    for plugin in plugins:
        module = plugin.partition(".")[0]
        yield from distributions.get(module, [module])

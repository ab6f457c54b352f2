"""What a run's identity is made of, measured in the process that has the device."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, version
from typing import Final

from pipeline.endpoint import announce_endpoint
from schemas.config import RunConfig
from schemas.errors import ConfigError
from schemas.run import Identity
from workers.stages import STAGES, StageKind

# What computes, and what writes: another version may give other bytes.
PACKAGES: Final = (
    "pseudoris",
    "torch",
    "torchvision",
    "open_clip_torch",
    "segment-anything",
    "pyarrow",
    "pillow",
    "numpy",
    "scipy",
)


# Of these, what processes use that hold no models: they prove that images decode, and write the tables.
_PACKAGES_WITHOUT_MODELS: Final = ("pseudoris", "pyarrow", "pillow", "numpy", "scipy")


def measure_identity(config: RunConfig, stages: Sequence[StageKind] = STAGES) -> Identity:
    """Return the identity that a run of `config` has in this process, with the weights of `stages`.

    Raises:
        ConfigError: Weights or an engine are missing, or the device is; the message holds the remedy.
    """
    # Every process that loads weights comes by here first.
    announce_endpoint(config)
    return Identity(
        method=config.method(),
        weights={stage.name: stage.weights_digest(config) for stage in stages},
        device_kind=_device_kind(config),
        versions={name: _version(name) for name in (*PACKAGES, *_further_packages(config))},
    )


def check_process(identity: Identity, config: RunConfig, stages: Sequence[StageKind]) -> tuple[str, ...]:
    """Accept this process for `stages` of the run where its weights, packages and device are the run's.

    A node may hold other weights under the same path, other packages or another device.

    Returns:
        The differences that `placement.allow_mixed` accepts, a line a field; none without it.

    Raises:
        ConfigError: They differ, or some are missing here; the message names each.
    """
    held = {stage.name: identity.weights[stage.name] for stage in stages}
    # The method came here with the run; what the process brings itself is to be seen.
    here = measure_identity(config, stages).model_copy(update={"method": identity.method})
    return _check(identity.model_copy(update={"weights": held}), here, config)


def check_packages(identity: Identity, config: RunConfig) -> tuple[str, ...]:
    """Accept this process for reading and committing where the packages that these use are the run's; no torch.

    Returns, raises as `check_process`.
    """
    names = {*_PACKAGES_WITHOUT_MODELS, *_decoder_packages(config.images.decoder_plugins)} & identity.versions.keys()
    here = {**identity.versions, **{name: _version(name) for name in names}}
    return _check(identity, identity.model_copy(update={"versions": here}), config)


def _check(of_run: Identity, here: Identity, config: RunConfig) -> tuple[str, ...]:
    accepted = tuple(of_run.mixed_differences(here)) if config.placement.allow_mixed else ()
    differences = [line for line in of_run.differences(here) if line not in accepted]
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise ConfigError(
            f"a process on {platform.node()} would compute otherwise than the run:\n{lines}\n"
            "Give every node the same weights and packages, and keep the pools on one kind of device with "
            "placement.<pool>.resources"
        )
    return accepted


def _device_kind(config: RunConfig) -> str:
    # Here and not above: processes that read and commit live without torch, its seconds and its memory.
    from workers.device import device_kind

    return device_kind(config.compute)


def _further_packages(config: RunConfig) -> list[str]:
    """Return the distributions, other than `PACKAGES`, that `config` makes a part of the work, sorted."""
    names = set(_decoder_packages(config.images.decoder_plugins))
    if config.filtering.nouns == "spacy":
        from workers.filtering.spacy_nouns import SPACY_MODEL

        names |= {"spacy", SPACY_MODEL}
    for stage in STAGES:
        for entry in entry_points(group=stage.group, name=stage.settings(config).engine):
            if entry.dist is not None and entry.dist.name not in PACKAGES:
                names.add(entry.dist.name)
    return sorted(names)


def _decoder_packages(plugins: Sequence[str]) -> Iterator[str]:
    """Yield the distributions that decoder plug-ins come from; a module of none by its own name."""
    distributions = packages_distributions() if plugins else {}
    for plugin in plugins:
        module = plugin.partition(".")[0]
        yield from distributions.get(module, [module])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        # A GPU image may lack what its plug-ins do not use; that is a fact of the identity too.
        return "absent"

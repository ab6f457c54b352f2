"""What a run's identity is made of, measured in the process that has the device."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, version
from typing import Any, Final

from schemas.config import RunConfig
from schemas.errors import ConfigError
from schemas.run import Identity
from schemas.shard import Shard
from workers import protocols

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


@dataclass(frozen=True, slots=True)
class StageKind:
    """A stage: its name, the part of the config that is its own, and how its engine's class is found."""

    name: str
    section: str
    group: str
    find: Callable[[Any], Any]

    def settings(self, config: RunConfig) -> Any:
        """Return the stage's sub-model of the config."""
        return getattr(config, self.section)

    def build(self, config: RunConfig) -> Callable[[Shard], Shard]:
        """Return the stage with its model loaded. Raises: ConfigError: it cannot be."""
        settings = self.settings(config)
        stage: Callable[[Shard], Shard] = self.find(settings)(settings, config.compute)
        return stage

    def weights_digest(self, config: RunConfig) -> str:
        """Return the sha256 of the stage's weights. Raises: ConfigError: they are missing or others."""
        settings = self.settings(config)
        return str(self.find(settings).weights_digest(settings))


STAGES: Final = (
    StageKind(protocols.STAGE_PROPOSE, "masks", "pseudoris.proposers", protocols.find_proposer),
    StageKind(protocols.STAGE_CAPTION, "captions", "pseudoris.captioners", protocols.find_captioner),
    StageKind(protocols.STAGE_FILTER, "filtering", "pseudoris.scorers", protocols.find_scorer),
)


def measure_identity(config: RunConfig, stages: Sequence[StageKind] = STAGES) -> Identity:
    """Return the identity that a run of `config` has in this process, with the weights of `stages`.

    Raises:
        ConfigError: Weights or an engine are missing, or the device is; the message holds the remedy.
    """
    return Identity(
        method=config.method(),
        weights={stage.name: stage.weights_digest(config) for stage in stages},
        device_kind=_device_kind(config),
        versions={name: _version(name) for name in (*PACKAGES, *_further_packages(config))},
    )


def check_process(identity: Identity, config: RunConfig, stages: Sequence[StageKind]) -> None:
    """Accept this process for `stages` of the run where its weights, packages and device are the run's.

    A node may hold other weights under the same path, other packages or another device.

    Raises:
        ConfigError: They differ, or some are missing here; the message names each.
    """
    held = {stage.name: identity.weights[stage.name] for stage in stages}
    # The method came here with the run; what the process brings itself is to be seen.
    here = measure_identity(config, stages).model_copy(update={"method": identity.method})
    differences = identity.model_copy(update={"weights": held}).differences(here)
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise ConfigError(
            f"a process on {platform.node()} would compute otherwise than the run:\n{lines}\n"
            "Give every node the same weights and packages, and keep the pools on one kind of device with "
            "placement.<pool>.resources"
        )


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

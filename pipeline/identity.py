"""What a run's identity is made of, measured in the process that has the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any, Final

from schemas.config import RunConfig
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


def measure_identity(config: RunConfig) -> Identity:
    """Return the identity that a run of `config` has in this process.

    Raises:
        ConfigError: Weights or an engine are missing, or the device is; the message holds the remedy.
    """
    return Identity(
        method=config.method(),
        weights={stage.name: stage.weights_digest(config) for stage in STAGES},
        device_kind=_device_kind(config),
        versions={name: _version(name) for name in (*PACKAGES, *_plugin_packages(config))},
    )


def device_differs(identity: Identity, config: RunConfig) -> str | None:
    """Return how this process's device differs from the identity's, None where it does not."""
    here = _device_kind(config)
    return None if here == identity.device_kind else f"{here!r} here, {identity.device_kind!r} in the run"


def _device_kind(config: RunConfig) -> str:
    # Here and not above: processes that read and commit live without torch, its seconds and its memory.
    from workers.device import device_kind

    return device_kind(config.compute)


def _plugin_packages(config: RunConfig) -> list[str]:
    """Return the distributions, other than ours, that the engines of `config` come from, sorted."""
    names = set()
    for stage in STAGES:
        for entry in entry_points(group=stage.group, name=stage.settings(config).engine):
            if entry.dist is not None and entry.dist.name not in PACKAGES:
                names.add(entry.dist.name)
    return sorted(names)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        # A GPU image may lack what its plug-ins do not use; that is a fact of the identity too.
        return "absent"

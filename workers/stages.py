"""The three stages of a run in their order: name, part of the config, and the engine behind each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from schemas.config import RunConfig
from schemas.measures import LOAD_SECONDS, record
from schemas.shard import Shard
from workers import protocols

Stage = Callable[[Shard], Shard]


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

    def build(self, config: RunConfig) -> Stage:
        """Return the stage with its model loaded. Raises: ConfigError: it cannot be."""
        started = time.perf_counter()
        settings = self.settings(config)
        stage: Stage = self.find(settings)(settings, config.compute)
        if self.name == protocols.STAGE_FILTER and config.composing is not None:
            # Only here: readers and committers know the stages too, and the composer brings torch with all models.
            from workers.composing.stage import ComposingStage

            stage = ComposingStage(stage, config.composing)
        record(LOAD_SECONDS, time.perf_counter() - started, of=self.name)
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


def kinds_of(names: tuple[str, ...]) -> tuple[StageKind, ...]:
    """Return the stages of `names` in stage order."""
    return tuple(kind for kind in STAGES if kind.name in names)

"""What the measurement counted, scene by scene, and the paired differences that follow from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from experiments.conformance.arms import ARMS, ARMS_BY_NAME, Arm
from pseudoris.training.evaluation.bootstrap import Estimate, ImageBootstrap

RECORD: Final = Path(__file__).parents[1] / "results" / "conformance.json"
NUM_SCENES: Final = 200

# Of one scene: what is kept and right, what is kept, and masks. Of draws: their chances to be right, draws, masks.
SceneCounts = tuple[float, int, int]


@dataclass(frozen=True)
class ArmCounts:
    """The counts of the first scenes of an arm, and the digest of its settings."""

    digest: str
    scenes: tuple[SceneCounts, ...] = ()


@dataclass(frozen=True)
class Difference:
    """An arm minus the one that it is compared with, over the same scenes; accuracy of what is kept, and its yield.

    Attributes:
        num_masks: Masks of the arm, and of the other.
        accuracy: Of what is kept.
        yield_: Kept expressions a mask.
    """

    num_masks: tuple[int, int]
    accuracy: Estimate
    yield_: Estimate


def read_record(path: Path = RECORD) -> dict[str, ArmCounts]:
    """Return the counts by arm, without those of arms that have other settings today."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    counted = {
        name: ArmCounts(each["digest"], tuple((right, kept, masks) for right, kept, masks in each["scenes"]))
        for name, each in found.items()
        if name in ARMS_BY_NAME
    }
    return {name: each for name, each in counted.items() if each.digest == ARMS_BY_NAME[name].digest()}


def write_record(counted: Mapping[str, ArmCounts], path: Path = RECORD) -> None:
    """Write the counts, an arm a line; the file takes its name when it is complete."""
    lines = [f"{json.dumps(arm.name)}: {json.dumps(asdict(counted[arm.name]))}" for arm in ARMS if arm.name in counted]
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    unfinished.replace(path)


def difference(counted: Mapping[str, ArmCounts], arm: Arm) -> Difference | None:
    """Return what an arm changes over all scenes; None where they are not counted yet."""
    both = [counted.get(arm.name), counted.get(arm.against)]
    scenes = [each.scenes for each in both if each is not None and len(each.scenes) >= NUM_SCENES]
    if len(scenes) < len(both):
        return None
    bootstrap = ImageBootstrap([_sums(*pair) for pair in zip(*scenes, strict=False)])
    own, other = (sum(masks for _, _, masks in each) for each in scenes)
    return Difference(
        (own, other),
        bootstrap.difference("accuracy", "accuracy of the other"),
        bootstrap.difference("yield", "yield of the other"),
    )


def _sums(own: SceneCounts, other: SceneCounts) -> dict[str, tuple[float, float]]:
    return {**_figures(own), **{f"{name} of the other": pair for name, pair in _figures(other).items()}}


def _figures(scene: SceneCounts) -> dict[str, tuple[float, float]]:
    right, kept, masks = scene
    return {"accuracy": (right, kept), "yield": (kept, masks)}


def missing(counted: Mapping[str, ArmCounts], arm: Arm, num_scenes: int) -> range:
    """Return the positions of the scenes that an arm has still to count."""
    done = counted.get(arm.name)
    return range(len(done.scenes) if done else 0, num_scenes)


def extended(counted: Mapping[str, ArmCounts], arm: Arm, scenes: Sequence[SceneCounts]) -> dict[str, ArmCounts]:
    """Return the counts with further scenes of an arm."""
    before = counted[arm.name].scenes if arm.name in counted else ()
    return {**counted, arm.name: ArmCounts(arm.digest(), (*before, *scenes))}

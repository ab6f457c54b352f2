"""Runs that students learn from: scenes with people's expressions, and the same images annotated by the pipeline."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.quality.options import Options
from benchmarks.quality.scenes import IMAGES_FOLDER, annotated_scenes
from schemas.config_loading import config_hash, load_config
from store.location import RunLocation
from store.manifest import is_manifest_complete
from store.receipts import list_receipts
from synthworld.scenes import Split
from synthworld.worlds import DEFAULT_WORLD

# The models of `tiny` were trained on the first 6,000 training scenes; nobody has seen these.
FIRST_UNSEEN: Final = 10_000
# For `pseudo_run`: the composer with its defaults.
BY_SHARES: Final = "composing={}"


@dataclass(frozen=True)
class SceneRun:
    """`count` scenes of a split of a world, from a position on."""

    split: Split
    count: int
    first: int = 0
    world: str = DEFAULT_WORLD

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.world}-{self.split}-{self.first}-{self.count}"


def training_scenes(count: int, world: str = DEFAULT_WORLD) -> SceneRun:
    """Return scenes for students to learn from."""
    return SceneRun(Split.TRAIN, count, FIRST_UNSEEN, world)


def true_run(options: Options, scenes: SceneRun) -> str:
    """Return the run of a set of scenes with their true masks and people's expressions, written unless it stands."""
    folder = _folder(options, scenes)
    run = annotated_scenes(folder, split=scenes.split, num_scenes=scenes.count, first=scenes.first, world=scenes.world)
    return str(run)


def pseudo_run(options: Options, scenes: SceneRun, *, composing: str | None = None) -> str:
    """Return the run that `pseudoris annotate --preset tiny` makes of the same images, and goes on with what stands.

    Args:
        options: Of the whole.
        scenes: Which.
        composing: How expressions with positions and relations are composed too, as `--set` takes it; None without.

    Raises:
        RuntimeError: The command failed; its last lines are in the message.
    """
    true_run(options, scenes)
    folder = _folder(options, scenes)
    method = [] if composing is None else [composing]
    # By the whole method, weights included: another one never takes its figures from these tables.
    digest = config_hash(load_config("tiny", None, method))[:8]
    out = folder / f"{'pseudo' if composing is None else 'composed'}-{digest}"
    if not _is_done(out):
        arguments = ["annotate", str(folder / IMAGES_FOLDER), str(out), "--preset", "tiny"]
        settings = ["placement.address=local", *method]
        command = [sys.executable, "-m", "cli", *arguments, *(word for each in settings for word in ("--set", each))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return str(out)


def _folder(options: Options, scenes: SceneRun) -> Path:
    return options.out / "runs" / scenes.name


def _is_done(out: Path) -> bool:
    if not out.exists():
        return False
    location = RunLocation.open(str(out))
    return is_manifest_complete(location, list_receipts(location))

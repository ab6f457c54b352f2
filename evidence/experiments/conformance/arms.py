"""Arms of the measurement: `tiny` with one element changed, each compared with another arm over the same scenes.

The record holds what was counted, scene by scene; the paired differences follow from it. Its counts are those of an
arm's digest: with other settings they are not read. `arm_counts` counts, `page` shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from evidence.experiments.quality.markdown_cells import paired
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.estimate import Estimate

# bgr: SAM sees blue and red exchanged. grey: the fill of crops is CLIP's mean, taken for normalised colours.
# short_boxes: a mask's box ends one pixel before its last one.
Fault = Literal["bgr", "grey", "short_boxes"]
# distinct: one of the distinct kept texts. kept_repeats: one of the draws of kept texts. repeats: as the authors'
# loader, so too, but any draw where none is kept, and of a lone mask one of the half with the higher correctness.
Draw = Literal["distinct", "kept_repeats", "repeats"]

PLAIN: Final = "plain"
_INSTANCES: Final = "truth"


@dataclass(frozen=True)
class Arm:
    """One way to annotate the scenes.

    Attributes:
        name: Its name in the record, and in the elements that it measures.
        title: What it does otherwise than the arm that it is compared with.
        assignments: Laid over `tiny`.
        against: Name of the arm that it is compared with; its own where it is only compared with.
        has_instances: Whether the truth's masks are the instance prior, in place of a detector's.
        fault: A fault of the authors' scripts that no setting has.
        draw: Counts what a trainer draws for each mask, in place of all that is kept.
    """

    name: str
    title: str
    assignments: tuple[str, ...] = ()
    against: str = PLAIN
    has_instances: bool = False
    fault: Fault | None = None
    draw: Draw | None = None

    def config(self, instances: str = _INSTANCES) -> RunConfig:
        """Return its settings; `instances` is the path of the table of instances."""
        prior = (f"masks.prior={{kind: table, path: {instances}}}",) if self.has_instances else ()
        return load_config("tiny", None, (*prior, *self.assignments))

    def digest(self) -> str:
        """Return what its counts depend on beside the code, 16 hex digits."""
        config = self.config()
        # Scenes have 8 bits, and no count needs perceptual hashes: those of before 0.7 keep their digest.
        images = config.images.model_copy(update={"bits": "stored", "phash": False})
        config = config.model_copy(update={"images": images})
        method = {**config.method(), "fault": self.fault, "draw": self.draw}
        return hashlib.sha256(json.dumps(method, sort_keys=True).encode()).hexdigest()[:16]


# In the order of the measurement.
ARMS: Final = (
    Arm(PLAIN, "`tiny`", against=PLAIN),
    Arm("tau", "τ of `paper`", ("filtering.tau=1.0",)),
    Arm("floor", "lower bound of a cosine of `paper`", ("filtering.min_cosine=1e-4",)),
    Arm("threshold", "both of `paper`", ("filtering.tau=1.0", "filtering.min_cosine=1e-4")),
    Arm("distinct_draw", "one draw a mask of distinct kept texts", against="distinct_draw", draw="distinct"),
    Arm("repeats_draw", "one draw a mask, repeats counted", against="distinct_draw", draw="kept_repeats"),
    Arm("authors_draw", "one draw a mask as the authors' loader", against="distinct_draw", draw="repeats"),
    Arm("grey", "grey fill, of normalised colours", fault="grey"),
    Arm("short_boxes", "boxes one pixel short", fault="short_boxes"),
    Arm("bgr", "SAM sees BGR", fault="bgr"),
    Arm("seed", "another seed of the draws, for scale", ("compute.seed=1",)),
    Arm("precision", "bfloat16 in place of float32", ("compute.precision=bfloat16",)),
    Arm(
        "antialiasing",
        "crops resized without antialiasing",
        ("captions.has_antialiasing=false", "filtering.has_antialiasing=false"),
    ),
    Arm("ended_beam", "a beam's length without EOS", ("captions.beam.counts_eos=false",)),
    Arm("instances", "the truth's masks as instances, in place of rules", has_instances=True),
    Arm(
        "duplicates",
        "a mask that two instances choose is kept twice",
        ("masks.prior.duplicates=keep",),
        against="instances",
        has_instances=True,
    ),
    Arm(
        "untouched",
        "an instance without a mask takes SAM's first",
        ("masks.prior.untouched=first_mask",),
        against="instances",
        has_instances=True,
    ),
    Arm(
        "samplers",
        "top-k and top-p of `paper`",
        ("captions.sampling.top_k=[5, 7, 9, 11, 13]", "captions.sampling.top_p=[0.4, 0.5, 0.6, 0.7, 0.8]"),
    ),
    Arm("pad", "token 0 ends a caption", ("captions.sampling.pad_ends_caption=true",)),
    Arm(
        "mask_thresholds",
        "predicted IoU and stability of `paper`",
        ("masks.pred_iou_thresh=0.5", "masks.stability_score_thresh=0.95"),
    ),
    Arm("logprob", "a beam's score of log-probabilities", ("captions.beam.beam_score=logprob",)),
    Arm(
        "no_contrast",
        "no contrast, as above 30 masks",
        ("captions.sampling.max_others=1", "captions.sampling.above_max_others=no_contrast"),
    ),
    Arm(
        "grid",
        "grid, NMS and layers of `paper`",
        (
            "masks.points_per_side=32",
            "masks.crop_n_layers=0",
            "masks.box_nms_thresh=0.7",
            "masks.min_mask_region_area=0",
        ),
    ),
)
ARMS_BY_NAME: Final = {arm.name: arm for arm in ARMS}


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
    own, other = (
        [{"accuracy": (right, kept), "yield": (kept, masks)} for right, kept, masks in each] for each in scenes
    )
    shared = min(len(own), len(other))
    found = paired({"own": own[:shared], "other": other[:shared]})
    accuracy, yield_ = (found.difference(f"own.{name}", f"other.{name}") for name in ("accuracy", "yield"))
    num_masks, num_other = (sum(masks for _, _, masks in each) for each in scenes)
    return Difference((num_masks, num_other), accuracy, yield_)


def missing(counted: Mapping[str, ArmCounts], arm: Arm, num_scenes: int) -> range:
    """Return the positions of the scenes that an arm has still to count."""
    done = counted.get(arm.name)
    return range(len(done.scenes) if done else 0, num_scenes)


def extended(counted: Mapping[str, ArmCounts], arm: Arm, scenes: Sequence[SceneCounts]) -> dict[str, ArmCounts]:
    """Return the counts with further scenes of an arm."""
    before = counted[arm.name].scenes if arm.name in counted else ()
    return {**counted, arm.name: ArmCounts(arm.digest(), (*before, *scenes))}

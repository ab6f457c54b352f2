"""The part `listening`, beyond the paper: candidates ranked by one probability, with a listener and without.

The captioner is its own listener. `listener.listener_gain` fits, judges and says how many labels the weights need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from evidence.benchmarks.listener_cost import measure_cost
from evidence.benchmarks.measurement import digest_of
from evidence.experiments.listener.judged_scenes import COMPOSERS, settings_of
from evidence.experiments.listener.listener_gain import COMPARED, measure
from evidence.experiments.quality.annotated_scenes import SceneSet
from evidence.experiments.quality.page import template
from evidence.experiments.quality.parts import Options, Part, Result
from pseudoris.synthworld.scenes import Split

# Other textures, palette and noise; and those with another mix of categories. Nothing is fitted or chosen there.
_OTHER_WORLDS: Final = {"second": "second renderer", "shifted": "shifted world"}


def run(options: Options) -> Result:
    """Fit on development scenes; judge test scenes and those of another renderer."""
    asked = {
        "test": SceneSet(Split.TEST, options.scenes(300, 20)),
        **{world: SceneSet(Split.TEST, options.scenes(100, 20), world) for world in _OTHER_WORLDS},
    }
    found = measure(options, SceneSet(Split.DEVELOPMENT, options.scenes(200, 20)), asked)
    return {**found, "cost": measure_cost(options.scenes(12, 2), rounds=3)}


def _readings(result: Result) -> Mapping[str, Any]:
    """The aim that the tables are of, and the rows of labels that the readings name."""
    (shown,) = (aim for aim in result["aims"] if (aim["coverage"], aim["yield"]) == COMPARED)
    rows = result["labels"]
    of_all = [row for row in rows if row["rule"] == "all" and row["labels"] == "oracle"]
    most = max(of_all, key=lambda row: row["scenes"])
    few = [row for row in of_all if row["scenes"] < most["scenes"]]
    least = most["test"]["accuracy"]["mean"] - 0.02
    return {
        "shown": shown,
        "other_worlds": _OTHER_WORLDS,
        "most": most,
        "enough": next((row for row in few if row["test"]["accuracy"]["least"] >= least), None),
        "sentences": next(row for row in rows if row["rule"] == "all" and row["labels"] == "sentences"),
    }


def _settings(options: Options) -> Mapping[str, Any]:
    """Return what composes: examples/listener-composer.yaml is another file than the preset."""
    return {"composers": {name: digest_of(settings_of(each)) for name, each in COMPOSERS.items()}}


PART = Part("listening", run, template("listening", _readings), settings=_settings, is_appendix=True)

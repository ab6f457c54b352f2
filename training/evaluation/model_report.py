"""The evaluation of a model as files: JSON, and one page with the worst and the best answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any, Final

import torch
from PIL import Image

from pseudoris.schemas.printable import printable_json
from pseudoris.store.location import RunLocation
from pseudoris.training.evaluation.bootstrap import Estimate
from pseudoris.training.evaluation.evaluation_report import HTML_NAME, JSON_NAME, render_page
from pseudoris.training.evaluation.figures import UNDEFINED
from pseudoris.training.evaluation.model_evaluation import (
    ALL,
    FIGURE_TITLES,
    NO_TARGET_TITLES,
    ModelEvaluation,
    PartFigures,
    ShownAnswer,
)
from pseudoris.training.learning.evaluator import HeldOutExpressions
from pseudoris.training.learning.mask_overlay import draw_masks
from pseudoris.workers.masks import rle

_SIDE_PX: Final = 480


def write_model_report(found: ModelEvaluation, questions: HeldOutExpressions, destination: RunLocation) -> str:
    """Write both files and return the page's address; the images of the shown answers are read.

    Raises:
        ConfigError: The place cannot be written, or an image cannot be used.
        TransientError: Storage failed.
    """
    # First: the page needs images, which may be gone.
    destination.replace(JSON_NAME, f"{printable_json(found.as_json(), indent=2)}\n".encode())
    page = render_page(
        "model_evaluation.html.j2",
        img_src="data:",
        found=found,
        titles=titles(found),
        part_name=part_name,
        percents=percents,
        facts=facts(found),
        caption=caption(found),
        answers={
            "Worst answers": [_shown(answer, questions) for answer in found.worst],
            "Best answers": [_shown(answer, questions) for answer in found.best],
        },
    )
    destination.replace(HTML_NAME, page.encode())
    return destination.uri(HTML_NAME)


def titles(found: ModelEvaluation) -> dict[str, str]:
    """Return the figures that any part has, by their names."""
    used = {name for part in found.parts for name in part.figures}
    return {name: title for name, title in {**FIGURE_TITLES, **NO_TARGET_TITLES}.items() if name in used}


def facts(found: ModelEvaluation) -> dict[str, str]:
    """Return what was asked, for a person, by name."""
    count = found.parts[0].num_expressions
    asked = f"{count:,} expressions of {found.num_images:,} images"
    given = {name: str(value) for name, value in found.settings.items() if value}
    return {"model": found.model, **given, "truth": found.truth, "asked": asked}


def part_name(part: PartFigures) -> str:
    """Return what a row is called: `testA`, or `testA, position`."""
    names = [part.split] if part.kind == ALL else [part.split, part.kind]
    return ", ".join(name or "no split" for name in names)


def percents(part: PartFigures, named: Mapping[str, str]) -> list[Estimate]:
    """Return the figures of a part in percent; nan where it has none."""
    found = (part.figures.get(name, UNDEFINED) for name in named)
    return [Estimate(100 * each.value, 100 * each.low, 100 * each.high) for each in found]


def caption(found: ModelEvaluation) -> str:
    """Return a sentence that explains the brackets of a table."""
    return f"Percent. Brackets show 95 % intervals, from {found.resamples:,} resamples of images."


def _shown(answer: ShownAnswer, questions: HeldOutExpressions) -> dict[str, Any]:
    image, row = answer.image, answer.row
    mask = torch.from_numpy(rle.decode([answer.counts], image.size)[0])
    picture = draw_masks(questions.pixels(image), mask, image.masks()[row])
    picture.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, format="JPEG", quality=85)
    uri = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
    split = image.splits[row]
    return {"uri": uri, "text": image.texts[row], "key": image.key, "iou": f"{answer.iou:.2f}", "split": split}

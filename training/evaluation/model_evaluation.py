"""`evaluate --model`: overall and mean IoU, precision at IoU bounds, a page of worst and best. For `cli/evaluate.py`.

A missing prediction counts as wrong. The same answers give the same page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pseudoris.files.location import RunLocation
from pseudoris.primitives import rle
from pseudoris.primitives.untrusted import printable_json, without_nan
from pseudoris.schemas.estimate import RESAMPLES, UNDEFINED, Estimate, ImageBootstrap, Sums
from pseudoris.schemas.ids import sha256_hex
from pseudoris.training.evaluation.answerers import Predictions
from pseudoris.training.evaluation.evaluation_report import HTML_NAME, JSON_NAME, render_page
from pseudoris.training.evaluation.held_out import Answerer, AskedImage, HeldOutExpressions
from pseudoris.training.learning.mask_overlay import draw_masks
from pseudoris.training.metrics import NOTHING_ASKED_OIOU, PRECISION_AT, figure_sums, ious_of, pixel_counts

FIGURE_TITLES: Final = {"oiou": "oIoU", "miou": "mIoU", **{f"p@{at}": f"P@{at}" for at in PRECISION_AT}}
NO_TARGET_TITLES: Final = {"giou": "gIoU", "no_target_accuracy": "N-acc.", "target_accuracy": "T-acc."}
ALL: Final = "all"
_MISSING: Final = "missing"
# The page shows this many of the worst answers, and as many of the best answers.
_NUM_SHOWN: Final = 12
_SIDE_PX: Final = 480


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    """An answer for the page; `counts` is its mask as COCO compressed RLE."""

    image: AskedImage
    row: int
    counts: str
    iou: float


@dataclass(frozen=True, slots=True)
class PartFigures:
    """The figures of the expressions of a split and a kind, each `all` where it is not divided.

    `num_missing` of them have no prediction. `figures` has the names of `FIGURE_TITLES`; where some have no target,
    also of `NO_TARGET_TITLES`.
    """

    split: str
    kind: str
    num_expressions: int
    num_missing: int
    figures: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """What an evaluation found.

    `parts` has all expressions first. `worst` are the answers with the lowest IoU, at most one per image, `best` those
    with the highest. `settings` is what the command was given beside model and truth. `circularity` is said first.
    """

    model: str
    truth: str
    num_images: int
    parts: Sequence[PartFigures]
    resamples: int
    worst: Sequence[ShownAnswer] = ()
    best: Sequence[ShownAnswer] = ()
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    circularity: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return all but the answers as JSON; nan becomes null."""
        parts = [asdict(part) for part in self.parts]
        for part in parts:
            part |= part.pop("figures")
        named = {"model": self.model, "truth": self.truth, "images": self.num_images, "resamples": self.resamples}
        said = {"circularity": list(self.circularity), **named, **self.settings, "notes": list(self.notes)}
        tree: dict[str, Any] = without_nan({**said, "parts": parts})
        return tree


def evaluate_model(
    answerer: Answerer,
    questions: HeldOutExpressions,
    *,
    model: str,
    notes: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ModelEvaluation:
    """Return the figures of an answerer, called `model`, on a truth.

    Memory: the truth's tables, embedded images among them, and two answers and sums of each image. `notes` are what a
    reader must know of the model, `settings` what else it was asked with.
    """
    lowest: list[ShownAnswer] = []
    highest: list[ShownAnswer] = []

    def sums() -> Iterator[Sums]:
        for number, image in enumerate(questions.images, start=1):
            question = questions.question(image)
            answer = answerer.answer(question)
            is_missing = answerer.is_missing(question) if isinstance(answerer, Predictions) else None
            rows = pixel_counts(answer, question.masks, is_missing)
            ious = ious_of(rows)
            for found, row in ((lowest, int(ious.argmin())), (highest, int(ious.argmax()))):
                found.append(ShownAnswer(image, row, rle.encode(answer[row : row + 1])[0], float(ious[row])))
            yield _sums(image, rows, np.zeros(len(rows)) if is_missing is None else is_missing)
            on_progress(number, len(questions))

    bootstrap = ImageBootstrap(sums())
    kinds = sorted({kind for image in questions.images for kind in image.kinds})
    splits = sorted({split for image in questions.images for split in image.splits})
    of_splits, of_kinds = (splits if splits != [""] else []), (kinds if len(kinds) > 1 else [])
    parts = [_part(bootstrap, split, kind) for split in (ALL, *of_splits) for kind in (ALL, *of_kinds)]
    return ModelEvaluation(
        model=model,
        truth=questions.root,
        num_images=len(questions),
        parts=[part for part in parts if part.num_expressions],
        resamples=RESAMPLES,
        worst=sorted(lowest, key=lambda each: (each.iou, _order(each)))[:_NUM_SHOWN],
        best=sorted(highest, key=lambda each: (-each.iou, _order(each)))[:_NUM_SHOWN],
        notes=[*questions.notes, *notes],
        settings=settings or {},
    )


def _sums(image: AskedImage, rows: NDArray[np.int64], is_missing: NDArray[Any]) -> dict[str, tuple[float, float]]:
    splits, kinds = np.array(image.splits), np.array(image.kinds)
    found: dict[str, tuple[float, float]] = {}
    for split in (ALL, *sorted(set(image.splits))):
        for kind in (ALL, *sorted(set(image.kinds))):
            chosen = ((splits == split) | (split == ALL)) & ((kinds == kind) | (kind == ALL))
            if chosen.any():
                named = figure_sums(rows[chosen]) | {_MISSING: (float(is_missing[chosen].sum()), float(chosen.sum()))}
                found |= {_name(split, kind, figure): each for figure, each in named.items()}
    return found


def _part(bootstrap: ImageBootstrap, split: str, kind: str) -> PartFigures:
    count = int(bootstrap.total(_name(split, kind, "giou"))[1])
    has_no_targets = bootstrap.total(_name(split, kind, "no_target_accuracy"))[1] > 0
    names = (*FIGURE_TITLES, *(NO_TARGET_TITLES if has_no_targets else ())) if count else ()
    figures = {name: bootstrap.ratio(_name(split, kind, name)) for name in names}
    if count and not bootstrap.total(_name(split, kind, "oiou"))[1]:
        figures["oiou"] = Estimate(NOTHING_ASKED_OIOU, NOTHING_ASKED_OIOU, NOTHING_ASKED_OIOU)
    num_missing = int(bootstrap.total(_name(split, kind, _MISSING))[0])
    return PartFigures(split, kind, count, num_missing, figures)


def _name(split: str, kind: str, figure: str) -> str:
    return f"{split}\n{kind}\n{figure}"


def _order(answer: ShownAnswer) -> str:
    # The digest orders equal answers. Its order is arbitrary, but always the same.
    return sha256_hex(f"{answer.image.key}\n{answer.image.texts[answer.row]}".encode())


def write_model_report(found: ModelEvaluation, questions: HeldOutExpressions, destination: RunLocation) -> str:
    """Write JSON, and a page with the worst and the best answers; return its address."""
    used = {name for part in found.parts for name in part.figures}
    # The JSON is written first, because the page needs images, which may be missing by now.
    destination.replace(JSON_NAME, f"{printable_json(found.as_json(), indent=2)}\n".encode())
    page = render_page(
        "model_evaluation.html.j2",
        img_src="data:",
        found=found,
        titles={name: title for name, title in {**FIGURE_TITLES, **NO_TARGET_TITLES}.items() if name in used},
        part_name=split_name,
        percents=percents,
        facts=facts(found),
        caption=model_caption(found),
        answers={
            "Worst answers": [_shown(answer, questions) for answer in found.worst],
            "Best answers": [_shown(answer, questions) for answer in found.best],
        },
    )
    destination.replace(HTML_NAME, page.encode())
    return destination.uri(HTML_NAME)


def facts(found: ModelEvaluation) -> dict[str, str]:
    """Return what was asked, for a person, by name."""
    every = found.parts[0]
    asked = f"{every.num_expressions:,} expressions of {found.num_images:,} images"
    asked += f", {every.num_missing:,} of them without a prediction" if every.num_missing else ""
    given = {name: str(value) for name, value in found.settings.items() if value}
    return {"model": found.model, **given, "truth": found.truth, "asked": asked}


def split_name(part: PartFigures) -> str:
    """Return what a row is called: `testA`, or `testA, position`."""
    names = [part.split] if part.kind == ALL else [part.split, part.kind]
    return ", ".join(name or "no split" for name in names)


def percents(part: PartFigures, named: Mapping[str, str]) -> list[Estimate]:
    """Return the figures of a part in percent; nan where it has none."""
    return [part.figures.get(name, UNDEFINED).each(lambda share: 100 * share) for name in named]


def model_caption(found: ModelEvaluation) -> str:
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

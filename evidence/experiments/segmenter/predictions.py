"""Writes a segmenter's answers: `python -m evidence.experiments.segmenter.predictions FOLDER TRUTH FILE.jsonl`.

`pseudoris evaluate --model FILE.jsonl --truth TRUTH` reads them, as those of any model: a line an expression.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from evidence.experiments.segmenter.segmenter_training import load_segmenter
from pseudoris.primitives import rle
from pseudoris.primitives.errors import PseudorisError
from pseudoris.training.evaluation.held_out import Answerer, HeldOutExpressions


def prediction_lines(answerer: Answerer, questions: HeldOutExpressions) -> Iterator[str]:
    """Yield a line of JSON for each expression, as `pseudoris.training.evaluation.answerers` reads them."""
    for image in questions.images:
        for text, counts in zip(image.texts, rle.encode(answerer.answer(questions.question(image))), strict=True):
            mask = {"size": list(image.size), "counts": counts}
            yield json.dumps({"image": image.key, "text": text, "segmentation": mask})


def main(
    model: Annotated[Path, typer.Argument(help="The --out of `python -m evidence.experiments.segmenter`.")],
    truth: Annotated[str, typer.Argument(help="Run or import whose expressions are asked.")],
    out: Annotated[Path, typer.Argument(help="File to write, .jsonl.")],
    split: Annotated[str, typer.Option(help="Splits of the truth, with commas; all by default.")] = "",
) -> None:
    """Write the masks that a segmenter gives to a truth's expressions."""
    splits: Sequence[str] = split.split(",") if split else ()
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        questions = HeldOutExpressions(truth, splits=splits, has_groups=True)
        lines = [f"{line}\n" for line in prediction_lines(load_segmenter(model, device), questions)]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(lines), encoding="utf-8")
    except PseudorisError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)

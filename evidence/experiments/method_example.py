"""The worked example of docs/records/method.md: tables and figure, by the captioner's and the filter's functions.

python -m evidence.experiments.method_example > docs/records/method.svg
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from evidence.experiments.quality.markdown_cells import markdown_table
from evidence.experiments.quality.svg_chart import COLOURS
from pseudoris.store.reports.charts import element, svg_file
from pseudoris.workers.captions.distinctive import distinctive_weights, draw
from pseudoris.workers.filtering.scorer import score_candidates

# In the order of their ids. The prefix is "a photo of a".
TOKENS: Final = ("cup", "plain", "red", "striped", "EOS")
OWN_LOGITS: Final = (2.5, 0.5, 3.0, 2.0, 1.0)
OTHER_LOGITS: Final = (2.5, 2.0, 3.0, 0.0, 1.0)
SIMILARITY, TOP_K, UNIFORM, TAU = 0.8, 4, 0.5, 1.0
CAPTIONS: Final = ("a red cup", "a striped red cup", "a striped shirt")
# Of masks 0 and 1 (rows) with the captions, and with "a photo of a {head noun}".
CONTEXT: Final = ((0.26, 0.31, 0.28), (0.27, 0.25, 0.22))
MASKED: Final = ((0.30, 0.30, 0.16), (0.29, 0.29, 0.22))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of distinctive sampling for mask 0; arrays are (5,) float64 in the order of `TOKENS`.

    Attributes:
        is_kept: (5,) bool, the top-k set.
        contrast: Logits less the others' weighted mean.
        own: The target's own softmax over the set.
        distinctive: Its weights, which need not add up to one.
        drawn: The tokens that the number `UNIFORM` draws of `own` and of `distinctive`.
    """

    is_kept: NDArray[np.bool_]
    contrast: NDArray[np.float64]
    own: NDArray[np.float64]
    distinctive: NDArray[np.float64]
    drawn: tuple[str, str]


def step() -> Step:
    """Return the step of the example."""
    own, others = torch.tensor([OWN_LOGITS]), SIMILARITY * torch.tensor([OTHER_LOGITS])
    is_kept = own >= own.topk(TOP_K).values[:, -1:]
    is_eos = torch.tensor([[token == "EOS" for token in TOKENS]])
    own_weights, distinctive = (
        distinctive_weights(own, each, is_kept=is_kept, is_eos=is_eos, temperature=1.0)
        for each in (torch.zeros_like(own), others)
    )
    drawn = [TOKENS[int(draw(each, torch.tensor([UNIFORM])))] for each in (own_weights, distinctive)]
    contrast = (own - others)[0].double().numpy()
    return Step(is_kept[0].numpy(), contrast, own_weights[0].numpy(), distinctive[0].numpy(), (drawn[0], drawn[1]))


def token_table() -> str:
    """Return the step as Markdown."""
    found = step()
    rows = [
        [
            f"`{token}`",
            *(f"{each:.1f}" for each in (OWN_LOGITS[at], OTHER_LOGITS[at], found.contrast[at])),
            "yes" if found.is_kept[at] else "no",
            *(f"{each[at]:.3f}" for each in (found.own, found.distinctive)),
        ]
        for at, token in enumerate(TOKENS)
    ]
    return markdown_table(["next token", "z_0", "z_1", "z_0 − s·z_1", "in V_0", "own softmax", "q"], rows)


def score_table() -> str:
    """Return the scores of the captions as Markdown."""
    found = score_candidates(CONTEXT, MASKED, targets=[0] * len(CAPTIONS), min_cosine=1e-4)
    # None only for a mask alone in its image.
    uniqueness, distinctiveness = np.asarray(found.uniqueness), np.asarray(found.distinctiveness)
    rows = [
        [
            text,
            *(f"{each[row][at]:.2f}" for each in (CONTEXT, MASKED) for row in (0, 1)),
            *(f"{each[at]:.3f}" for each in (uniqueness, found.correctness, distinctiveness)),
            "yes" if distinctiveness[at] > TAU else "no",
        ]
        for at, text in enumerate(CAPTIONS)
    ]
    figures = ["uniqueness", "correctness", "distinctiveness", "kept"]
    return markdown_table(["caption of mask 0", "c(0, t)", "c(1, t)", "m(0, t)", "m(1, t)", *figures], rows)


def figure() -> str:
    """Return the step as SVG: for each token a bar of the own softmax and one of the distinctive weights."""
    found, left, base, height = step(), 60, 230, 260
    parts = [element("rect", width=580, height=280, fill="white")]
    for number, (values, title) in enumerate(((found.own, "own softmax"), (found.distinctive, "distinctive weight q"))):
        colour, drawn = COLOURS[number], found.drawn[number]
        parts.append(element("rect", x=left + 230 * number, y=20, width=12, height=12, fill=colour))
        parts.append(element("text", f"{title}: draws “{drawn}”", x=left + 18 + 230 * number, y=30))
        for at, value in enumerate(values):
            x, tall = left + 100 * at + 36 * number, height * value
            parts.append(element("rect", x=x, y=f"{base - tall:.1f}", width=34, height=f"{tall:.1f}", fill=colour))
            place = {"x": x + 17, "y": f"{base - tall - 5:.1f}", "text_anchor": "middle", "font_size": 11}
            parts.append(element("text", f"{value:.3f}", **place))
    for at, token in enumerate(TOKENS):
        parts.append(element("text", token, x=left + 100 * at + 35, y=base + 18, text_anchor="middle"))
    parts += [
        element("line", x1=left - 10, x2=550, y1=base, y2=base, stroke="black"),
        element("text", "next token of mask 0 behind “a photo of a”", x=left, y=268),
    ]
    return svg_file(580, 280, *parts, font_family="sans-serif", font_size=12)


if __name__ == "__main__":
    print(figure(), end="")

"""Elements of Pseudo-RIS: the loader that trains on the result (script *loader*, my_utils/pseudo_datasets.py)."""

from __future__ import annotations

from typing import Final

from experiments.conformance.elements import Element, Section

_DRAW: Final = "tests/training/dataset/test_draw_weights.py"
_DISTINCT: Final = "of a dataset by default (`distinct`) "

TRAINING: Final = Section(
    "Training",
    (
        Element(
            "learners",
            "§4",
            "ETRIS and CRIS",
            ours="exports that their loaders read, and a small student of ours",
            reason="their code and weights are not ours to ship",
            unmeasured="needs both and a GPU",
        ),
        Element(
            "what a visit to a mask draws",
            "script: loader",
            "one of the draws above τ, repeats included",
            ours="`draw=pseudo_ris` of a dataset and of `train`: the same",
            others=f"{_DISTINCT}one of the distinct kept texts",
            proof=f"{_DRAW}::test_the_authors_draw_is_what_their_loader_draws_of_the_export",
        ),
        Element(
            "a mask without a caption above τ",
            "script: loader",
            "any of its draws",
            ours="`draw=pseudo_ris`: the same",
            others=f"{_DISTINCT}no sample",
            proof=f"{_DRAW}::test_the_authors_draw_is_what_their_loader_draws_of_the_export",
        ),
        Element(
            "a mask alone in its image",
            "script: loader",
            "one of the better half of its draws, by correctness",
            ours="`draw=pseudo_ris`: the same; of equal ones the last rows', and one at least (above 16 draws their "
            "sort leaves the order of equals open)",
            others=f"{_DISTINCT}one of all its texts",
            proof="tests/schemas/test_keep_rule.py::test_the_better_half_is_what_the_authors_loader_draws_from",
        ),
        Element(
            "the draw by default",
            "script: loader",
            "as the three rows above",
            ours="`train student`: the same; a dataset draws `distinct`",
            reason="an epoch shows more different texts, and none that the filter rejected. Accuracy is that of a "
            "text drawn for a mask, yield the share of masks with one. Repeats alone raise it; the fallback lowers it, "
            "all the more under the strict bounds of `tiny`, where half of the masks keep no text. "
            "Measured later, a student learns more with the authors' draw (quality.md, the paper's chain)",
            arms=("repeats_draw", "authors_draw"),
        ),
        Element(
            "order of the draws",
            "script: loader",
            "a global generator without a seed",
            ours="keyed by seed, epoch, mask, text and occurrence",
            reason="the same training twice gives the same weights",
            unmeasured="the distribution is the same",
        ),
        Element(
            "captions of a mask in an epoch",
            "script: loader",
            "one",
            ours="one by default, any number by `expressions_per_mask`",
            proof=f"{_DRAW}::test_each_text_is_drawn_as_often_as_its_weight_says",
        ),
        Element(
            "file that the authors' loader reads",
            "script: loader",
            "all draws of a mask with their scores; it applies τ while it draws",
            ours="the export `pseudo-ris-csv` writes so",
            proof="tests/training/exports/test_pseudo_ris_csv.py"
            "::test_a_caption_stands_as_often_as_it_was_drawn_with_its_score_each_time",
        ),
        Element(
            "semi-supervised mix",
            "figure 4",
            "all pseudo supervision, and 1, 5, 10, … % of the human one",
            ours="the same, by any fraction",
            proof="tests/training/dataset/test_mixed_dataset.py::test_all_of_the_machines_and_a_fraction_of_the_humans",
        ),
        Element(
            "metrics",
            "§4",
            "oIoU, mIoU, P@0.5 to P@0.9; an IoU at the threshold does not pass (CRIS, ETRIS)",
            ours="the same, and P@0.3",
            proof="tests/training/test_metrics.py::test_hand_values",
        ),
    ),
)

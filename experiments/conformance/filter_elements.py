"""Elements of Pseudo-RIS: the filter (script *nouns*, my_utils/noun_extraction.py), and faults that no preset has."""

from __future__ import annotations

from typing import Final

from experiments.conformance.elements import NOT_STATED, Element, Section

_SCORES: Final = "tests/workers/filtering/test_scores.py"
_SCORER: Final = "tests/workers/filtering/test_scorer.py"
_SPACY: Final = "tests/workers/filtering/test_head_nouns_spacy.py"

FILTER: Final = Section(
    "Filter",
    (
        Element(
            "CLIP",
            "script: captions",
            "OpenAI's RN50",
            {"filtering.architecture": "RN50-quickgelu", "filtering.weights.uri": "open_clip:RN50-quickgelu/openai"},
            proof="tests/workers/checkpoints/test_weights.py"
            "::test_weights_trained_with_quickgelu_are_refused_by_an_architecture_without_it",
        ),
        Element(
            "texts and crops that are scored",
            "§3.3; script: captions",
            "c: caption and 1.2 crop; m: “a photo of a [noun]” and masked crop",
            {"filtering.context_scale": 1.2},
            proof=f"{_SCORER}::test_scores_equal_the_definition_computed_on_open_clips_own_forward",
        ),
        Element(
            "uniqueness, correctness, distinctiveness",
            "§3.3; script: captions",
            "c_i / max c_k; m_i; c_i m_i / max c_k m_k, over all other masks",
            ours="the same",
            proof=f"{_SCORES}::test_the_three_scores_are_those_of_a_calculation_by_hand",
        ),
        Element(
            "unit of a score",
            "script: captions",
            "100 cosines: CLIP's logit scale is left in",
            ours="cosines",
            reason="the ratios are the same, and the order of a lone mask's captions",
            unmeasured="no accuracy and no yield can change",
        ),
        Element(
            "a cosine below zero",
            "script: captions",
            "is left as it is",
            {"filtering.min_cosine": NOT_STATED},
            reason="two negative cosines would make a strong rival. The bound of `paper` is next to zero; by its "
            "own, `tiny` drops what does not describe the object. Measured is how far that bound reaches",
            arms=("floor",),
        ),
        Element(
            "threshold τ",
            "§3.3; script: loader",
            "1, strictly above",
            {"filtering.tau": 1.0},
            proof="tests/schemas/test_keep_rule.py::test_tau_is_a_strict_bound_and_lone_masks_pass",
            arms=("tau", "threshold"),
        ),
        Element(
            "other conditions",
            "§3.3",
            "none",
            {
                "filtering.keep": [],
                "filtering.fitted": None,
                "captions.listening": None,
                "composing": None,
            },
            proof="tests/schemas/test_keep_rule.py::test_all_conditions_hold_and_none_ask_nothing",
        ),
        Element(
            "head noun",
            "script: nouns",
            "of the chunk with the root, else with its first child; else the whole caption",
            {"filtering.nouns": "spacy_first_child"},
            proof=f"{_SPACY}::test_in_paper_the_head_is_of_the_roots_chunk_or_of_its_first_childs_alone",
        ),
        Element(
            "parser",
            "script: captions",
            "spaCy's en_core_web_lg, of no stated version",
            {"filtering.spacy_model": "en_core_web_lg"},
            reason="another version may parse a caption otherwise: its files' digest is part of a run's identity. "
            "`base` and `tiny` have rules instead, which need no model",
            unmeasured="the model cannot be had where this was built",
        ),
        Element(
            "prompt of a noun",
            "script: captions",
            "“a photo of a [noun]”; no article behind “a”, “an”, “the”",
            ours="the same",
            proof=f"{_SPACY}::test_in_paper_the_prompt_names_what_the_pipeline_finds_else_the_whole_caption",
        ),
        Element(
            "candidates that are stored",
            "script: captions",
            "all, with their scores",
            ours="the same",
            proof=f"{_SCORER}::test_tau_decides_what_is_kept_and_changes_no_score",
        ),
        Element(
            "a mask alone in its image",
            "script: captions",
            "its correctness in place of distinctiveness; the filter keeps all of its captions",
            {"filtering.lone_masks": "keep"},
            ours="distinctiveness is null, correctness ranks",
            proof=f"{_SCORES}::test_a_lone_mask_has_correctness_alone",
        ),
    ),
)

FAULTS: Final = Section(
    "Faults of the scripts that are not inherited",
    (
        Element(
            "colours that SAM sees",
            "script: masks",
            "BGR",
            ours="RGB",
            reason="SAM was trained on RGB",
            arms=("bgr",),
        ),
        Element(
            "all weights of a step are zero",
            "script: CoCa",
            "if all rows' weights are, the batch falls back to its own distributions",
            ours="a row whose weights are zero does",
            reason="a row must not depend on others",
            unmeasured="EOS apart, a softmax has no zero sum: it does not occur",
        ),
        Element(
            "above 30 masks",
            "script: CoCa",
            "no contrast, without a word",
            ours="in `paper` no contrast, and a draw's row says so; `base` and `tiny` contrast with the 30 nearest",
            reason="whoever reads a table must know",
            unmeasured="no scene has 31 masks; what no contrast at all changes, the row “contrast” says",
        ),
        Element(
            "inputs that end the script",
            "scripts: masks, captions",
            "an image where SAM finds nothing; a damaged image; a box without width or height; an empty caption",
            ours="an empty image; a row in `failures`; a box of one pixel; no candidate",
            reason="one image must not end a run",
            unmeasured="theirs gives no result to compare",
        ),
        Element(
            "files between the steps",
            "scripts: masks, captions",
            "PNG files and captions joined by position; JSON lines that a second run doubles; Python literals in a "
            "CSV; paths and devices in the code",
            ours="Parquet tables with ids, receipts and resume; the export writes their form",
            reason="nothing lost, nothing doubled",
            unmeasured="no accuracy and no yield can change",
        ),
        Element(
            "batches",
            "scripts: masks, captions",
            "one image at a time; each prefix computed again for each crop",
            ours="shards, caches, tiles of fixed shapes",
            reason="speed; results are those of the plain definition, within float rounding",
            unmeasured="the tests of the section “Captions” compare them",
        ),
    ),
)

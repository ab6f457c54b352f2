"""Elements of Pseudo-RIS: candidate captions.

Scripts: *captions* (generate_pseudo_supervision/distinctive_caption_generation.py) and *CoCa* (coca_model.py of the
authors' open_clip).
"""

from __future__ import annotations

from typing import Final

from experiments.conformance.elements import Element, Section

_CAPTIONER: Final = "tests/workers/captions/test_captioner.py"
_BEAM: Final = "tests/workers/captions/test_beam_search.py"
_DISTINCTIVE: Final = "tests/workers/captions/test_distinctive.py"
_ENGINE: Final = "tests/workers/captions/test_engine.py"

CAPTIONS: Final = Section(
    "Captions",
    (
        Element(
            "architecture",
            "script: captions",
            "CoCa ViT-L/14",
            {"captions.architecture": "coca_ViT-L-14"},
            proof="tests/workers/checkpoints/test_openclip.py::test_both_models_of_paper_see_224_pixels",
        ),
        Element(
            "weights",
            "script: captions",
            "LAION-2B's, tuned on CC3M for an epoch",
            {"captions.weights.uri": "checkpoints/pseudo-ris/laion_cc3m/checkpoints/epoch_1.pt"},
            proof="tests/workers/checkpoints/test_models.py"
            "::test_in_paper_the_authors_captioner_is_read_as_their_trainer_wrote_it",
        ),
        Element(
            "captions of a crop",
            "script: captions",
            "11: one of beam search, ten sampled; 44 a mask",
            ours="the same",
            proof=f"{_CAPTIONER}::test_in_paper_a_crop_gets_one_caption_of_each_of_the_eleven_rules",
        ),
        Element(
            "beams and groups",
            "script: CoCa",
            "6 beams in 3 groups, without a diversity term",
            {"captions.beam.num_beams": 6, "captions.beam.num_groups": 3},
            ours="one group is computed: all are the same search",
            proof=f"{_BEAM}::test_one_group_finds_what_open_clips_groups_find",
        ),
        Element(
            "score of a beam",
            "script: CoCa",
            "the sum of raw logits",
            {"captions.beam.beam_score": "logit"},
            proof=f"{_ENGINE}::test_in_paper_the_best_beam_has_the_highest_sum_of_raw_logits",
            arms=("logprob",),
        ),
        Element(
            "length of a beam",
            "transformers 4.30.2, the last with which their loop runs",
            "divides the sum; it counts SOT, and not the EOS that ended the caption",
            {"captions.beam.length_penalty": 1.0, "captions.beam.counts_eos": False},
            proof=f"{_BEAM}::test_in_paper_a_beam_that_eos_ended_is_divided_as_transformers_4_30_does",
            arms=("ended_beam",),
        ),
        Element(
            "samplers",
            "script: captions",
            "top-k with 5, 7, 9, 11, 13; top-p with 0.4, 0.5, 0.6, 0.7, 0.8; one caption each",
            {"captions.sampling.top_k": [5, 7, 9, 11, 13], "captions.sampling.top_p": [0.4, 0.5, 0.6, 0.7, 0.8]},
            proof=f"{_CAPTIONER}::test_in_paper_a_crop_gets_one_caption_of_each_of_the_eleven_rules",
            arms=("samplers",),
        ),
        Element(
            "top-k set",
            "script: CoCa",
            "every token at or above the k-th logit",
            ours="the same, ties included",
            proof=f"{_DISTINCTIVE}::test_top_k_keeps_every_token_that_ties_with_the_kth",
        ),
        Element(
            "top-p set",
            "script: CoCa",
            "the fewest tokens that reach p, the crossing one included",
            ours="the same; of equal logits the lower token id first, where theirs depends on the sort",
            proof=f"{_DISTINCTIVE}::test_top_p_keeps_the_smallest_set_that_reaches_p_with_the_crossing_token",
        ),
        Element(
            "EOS below the least length",
            "script: CoCa",
            "masked before the set is formed",
            ours="the same",
            proof="tests/workers/captions/test_distinctive.py::test_a_forbidden_eos_is_gone_before_the_set_is_formed",
        ),
        Element(
            "length of a caption",
            "script: CoCa",
            "EOS from a prefix of 5 tokens on, forced as token 30; SOT counts",
            {"captions.min_length": 5, "captions.max_length": 30},
            proof=f"{_ENGINE}::test_in_paper_eos_may_be_token_6_and_is_token_30_where_sot_is_the_first",
        ),
        Element(
            "the other masks' logits",
            "§3.2; script: CoCa",
            "z_j: the target's prefix under every other crop of the same kind, also for the first token",
            ours="the same, computed once for all prefixes that are equal",
            proof=f"{_ENGINE}::test_several_crop_kinds_keep_to_their_own_others",
        ),
        Element(
            "similarity",
            "§3.2; script: CoCa",
            "cosine of CoCa's image embeddings, not clamped",
            ours="the same",
            proof=f"{_ENGINE}::test_others_weigh_by_the_cosine_of_open_clips_embeddings_also_below_zero",
        ),
        Element(
            "contrast",
            "§3.2; script: CoCa",
            "softmax over the set of z_i − mean over j of s_ij · z_j",
            {
                "captions.sampling.is_distinctive": True,
                "captions.sampling.others_weight": 1.0,
                "captions.sampling.others_weighting": "mean",
            },
            proof=f"{_DISTINCTIVE}::test_the_contrast_is_a_softmax_of_the_difference_over_the_kept_tokens",
            arms=("no_contrast",),
        ),
        Element(
            "probability of EOS",
            "script: CoCa",
            "the target's own over the set; nothing is normalised again",
            ours="the same",
            proof=f"{_DISTINCTIVE}::test_eos_takes_its_probability_from_the_targets_own_softmax_and_nothing_is_renormalised",
        ),
        Element(
            "temperature",
            "script: CoCa",
            "1",
            {"captions.sampling.temperature": 1.0},
            proof=f"{_DISTINCTIVE}::test_the_temperature_divides_the_difference",
        ),
        Element(
            "one mask, or more than 30",
            "script: CoCa",
            "no contrast; N masks are compared with 30",
            {"captions.sampling.max_others": 30, "captions.sampling.above_max_others": "no_contrast"},
            proof=f"{_ENGINE}::test_at_31_masks_the_tokens_are_those_of_the_plain_definition",
        ),
        Element(
            "token 0",
            "script: CoCa",
            "ends a sampled caption, at any length: it is their padding",
            {"captions.sampling.pad_ends_caption": True},
            proof=f"{_ENGINE}::test_in_paper_a_drawn_token_0_ends_a_caption_as_the_plain_definition_ends_it",
            arms=("pad",),
        ),
        Element(
            "text of a caption that token 0 ended",
            "script: captions",
            "ends in exclamation marks: token 0 and the padding behind it are decoded",
            ours="ends before them",
            reason="a fault: how many there are depends on the longest caption of the batch",
            unmeasured="the captioner of `tiny` knows no token 0",
        ),
        Element(
            "precision",
            "script: captions",
            "float16: autocast for CoCa, and CLIP as it is loaded on a GPU; SAM in float32",
            {"compute.precision": "float16"},
            reason="one float32 for all presets, so that a rounding decides no draw; `compute.precision` sets another. "
            "In float16 a ratio near 1 is rounded to a thousandth, and a tie fails τ. Measured is bfloat16: a CPU has "
            "no float16 of use",
            arms=("precision",),
        ),
        Element(
            "draw",
            "script: CoCa",
            "multinomial, from a global generator",
            ours="inverse of the cumulated weights, from a generator keyed by image, mask, crop, rule and step",
            reason="the same distribution, and the same run gives the same captions. Measured is another seed",
            arms=("seed",),
        ),
        Element(
            "cleaning of a text",
            "script: captions",
            "none: as the tokenizer decodes it, with blanks and a full stop",
            ours="lower-case, blanks collapsed, no full stop at the end",
            reason="so that equal captions are one. CLIP's tokenizer does the first two itself; the full stop is "
            "a token of theirs that ours has not. Their parser reads the text before it is cleaned",
            unmeasured="the captioner of `tiny` writes no full stop",
        ),
        Element(
            "equal captions of a mask",
            "script: captions",
            "stay apart, 44 in all",
            ours="one row with its draws",
            reason="no score depends on it, and the export writes each draw again, in the order of the script",
            unmeasured="what a trainer draws is measured [below](#training)",
        ),
    ),
)

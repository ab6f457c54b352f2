"""The elements of Pseudo-RIS: its scripts from SAM to the filter, and the loader that trains on the result.

Scripts, as the page names them: *masks* (generate_masks/cutler_sam_masks.py), *captions*
(generate_pseudo_supervision/distinctive_caption_generation.py), *CoCa* (coca_model.py of their open_clip), *nouns*
(my_utils/noun_extraction.py), *loader* (my_utils/pseudo_datasets.py).
"""

from __future__ import annotations

from typing import Final

from experiments.conformance.elements import NOT_STATED, Element, Section

_GENERATOR: Final = "tests/workers/masks/test_generator.py::test_masks_order_boxes_and_codes_are_sams"
_INSTANCES: Final = "tests/workers/masks/test_instances.py"
_CROPS: Final = "tests/workers/images/test_crops.py"
_CAPTIONER: Final = "tests/workers/captions/test_captioner.py"
_BEAM: Final = "tests/workers/captions/test_beam_search.py"
_DISTINCTIVE: Final = "tests/workers/captions/test_distinctive.py"
_ENGINE: Final = "tests/workers/captions/test_engine.py"
_SCORES: Final = "tests/workers/filtering/test_scores.py"
_SCORER: Final = "tests/workers/filtering/test_scorer.py"
_SPACY: Final = "tests/workers/filtering/test_head_nouns_spacy.py"
_NO_DETECTOR: Final = "the truth of a scene has no scores"

MASKS: Final = Section(
    "Masks",
    (
        Element(
            "images",
            "script: masks",
            "RefCOCO+'s training images, without their annotation",
            ours="any images",
            reason="data is the user's",
            unmeasured="needs COCO's images and trained models of that size",
        ),
        Element(
            "SAM",
            "script: masks",
            "ViT-H",
            {
                "masks.architecture.encoder_width": 1280,
                "masks.architecture.encoder_depth": 32,
                "masks.architecture.encoder_heads": 16,
                "masks.architecture.encoder_global_blocks": [7, 15, 23, 31],
                "masks.architecture.image_size": 1024,
            },
            proof="tests/workers/checkpoints/test_models.py::test_the_paper_preset_builds_the_published_vit_h",
        ),
        Element(
            "grid of points, no crop layer",
            "SAM's default",
            "32 × 32 on the whole image, three masks a point",
            {"masks.points_per_side": 32, "masks.crop_n_layers": 0},
            proof=_GENERATOR,
            arms=("grid",),
        ),
        Element(
            "predicted IoU",
            "script: masks",
            "0.5, strictly above",
            {"masks.pred_iou_thresh": 0.5},
            proof="tests/workers/masks/test_generator.py::test_each_threshold_is_sams",
            arms=("mask_thresholds",),
        ),
        Element(
            "stability and its offset",
            "SAM's default",
            "at least 0.95, at an offset of 1.0, on logits at the image's size",
            {"masks.stability_score_thresh": 0.95, "masks.stability_score_offset": 1.0},
            proof="tests/workers/masks/test_generator.py::test_each_threshold_is_sams",
        ),
        Element(
            "box NMS",
            "SAM's default",
            "IoU 0.7, by predicted IoU; the output in this order",
            {"masks.box_nms_thresh": 0.7},
            proof=_GENERATOR,
        ),
        Element(
            "holes and islands",
            "SAM's default",
            "left as they are",
            {"masks.min_mask_region_area": 0},
            proof="tests/workers/masks/test_generator.py::test_small_regions_are_removed_as_sam_does",
        ),
        Element(
            "resize of the image for SAM",
            "SAM's predictor",
            "bilinear, by Pillow on bytes, the longer side to 1024",
            ours="the same",
            proof="tests/workers/masks/test_generator.py::test_trained_masks_of_scenes_are_sams",
        ),
        Element(
            "instances that choose the masks",
            "script: masks",
            "CutLER, class-agnostic",
            {"masks.prior.kind": "table"},
            reason="detectron2 and CutLER's weights are not ours to ship. A run of `paper` is refused until it names a "
            "table of instances, or `kind: none` ([priors](priors.md)). With CutLER's table it does as theirs; `base` "
            "and `tiny` have rules. Measured is the best that a detector can bring: the truth's masks",
            arms=("instances",),
        ),
        Element(
            "score of an instance",
            "script: masks",
            "strictly above 0.5 (detectron2)",
            {"masks.prior.min_score": 0.5},
            reason="ours is inclusive: a bound in a table of instances is read as “at least”. Only a score of exactly "
            "0.5 differs",
            unmeasured=_NO_DETECTOR,
        ),
        Element(
            "mask of an instance",
            "script: masks",
            "the one that shares most pixels with it, the first of equals",
            {"masks.prior.match": "intersection"},
            proof=f"{_INSTANCES}::test_in_paper_masks_are_those_of_the_authors_loop",
        ),
        Element(
            "a mask that two instances choose",
            "script: masks",
            "is kept for each of them",
            {"masks.prior.duplicates": "keep"},
            proof=f"{_INSTANCES}::test_in_paper_a_mask_is_kept_once_for_each_instance_that_picks_it",
            arms=("duplicates",),
        ),
        Element(
            "an instance that touches no mask",
            "script: masks",
            "takes SAM's first mask: the maximum of zeros is the first",
            {"masks.prior.untouched": "first_mask"},
            proof=f"{_INSTANCES}::test_in_paper_an_instance_that_touches_no_mask_takes_the_generators_first",
            arms=("untouched",),
        ),
        Element(
            "order of the masks",
            "script: masks",
            "the order of the instances",
            ours="SAM's order, copies behind it",
            reason="so ids do not depend on the detector's order. Another order draws other captions of the same "
            "distribution, and of two rivals with equal scores the first is named",
            unmeasured="what other draws of the same distribution change is the arm of another seed",
        ),
        Element(
            "an image without an instance",
            "script: masks",
            "is skipped: no expression",
            ours="its status is `empty`: no mask, no expression",
            proof=f"{_INSTANCES}::test_nothing_on_either_side_gives_nothing",
        ),
        Element(
            "a mask of the whole image",
            "script: captions",
            "is left out, as an image of one value",
            ours="stays",
            reason="it is a mask as any other, and an id must not depend on it. Their test is for empty PNG files",
            unmeasured="no mask of the synthetic world covers an image",
        ),
        Element(
            "an image that is listed twice",
            "script: masks",
            "is annotated once",
            ours="a repeated key is planned once",
            proof="tests/store/runs/test_shard_assignment.py::test_a_repeated_key_is_planned_once_and_counted",
        ),
        Element(
            "decoding",
            "scripts: masks, captions",
            "upright by EXIF; for masks detectron2's reader (Pillow), for captions OpenCV",
            ours="Pillow, upright by EXIF",
            reason="one decoder for all formats, in a process that may die. Both use libjpeg; for captions chroma and "
            "rounding can differ by a colour step",
            unmeasured="scenes are PNG files, which both decode alike",
        ),
    ),
)

CROPS: Final = Section(
    "Crops",
    (
        Element(
            "kinds of crops",
            "script: captions",
            "one masked, three of the image at 1.0, 1.1 and 1.2",
            {"captions.has_masked_crop": True, "captions.context_scales": [1.0, 1.1, 1.2]},
            proof=f"{_CAPTIONER}::test_in_paper_the_captioner_sees_the_mask_and_the_image_around_it_at_three_scales",
        ),
        Element(
            "masked crop",
            "script: captions",
            "the mask's box at 1.0; outside the mask, the fill",
            ours="the same",
            proof=f"{_CROPS}::test_a_masked_crop_shows_the_mask_and_fills_the_rest",
        ),
        Element(
            "growth of a box",
            "script: captions",
            "width and height times the scale, about the centre, clipped to the image",
            ours="the same",
            proof=f"{_CROPS}::test_boxes_grow_about_their_centre_and_are_clipped",
        ),
        Element(
            "edges of a box",
            "script: captions",
            "one pixel short at its end; the grown start, width and height are cut to integers",
            ours="whole; the grown box is all pixels that it touches, in exact arithmetic",
            reason="a fault: the last row and column of each object are lost, and a single pixel ends the script. The "
            "arm cuts the end pixel; the cut to integers is not in it",
            arms=("short_boxes",),
        ),
        Element(
            "padding",
            "script: captions",
            "to a centred square; of an odd number, the end gets one pixel more",
            ours="the same",
            proof=f"{_CROPS}::test_a_masked_crop_shows_the_mask_and_fills_the_rest",
        ),
        Element(
            "colour of fill and padding",
            "script: captions",
            "CLIP's mean as a normalised value: RGB 156, 147, 133",
            ours="CLIP's mean colour: RGB 123, 117, 104",
            reason="a fault: the mean was meant, which is 0 after normalisation",
            arms=("grey",),
        ),
        Element(
            "resize",
            "torchvision 0.12",
            "bilinear on float tensors, without antialiasing",
            {"captions.has_antialiasing": False, "filtering.has_antialiasing": False},
            proof=f"{_CROPS}::test_in_paper_crops_are_resized_as_torchvision_resizes_a_tensor_without_antialiasing",
            arms=("antialiasing",),
        ),
        Element(
            "order of normalising and resizing",
            "script: captions",
            "normalised, cut, padded, resized",
            ours="cut, padded, resized, normalised: equal, because all steps are linear (the test allows 1e-4)",
            proof=f"{_CROPS}::test_in_paper_crops_are_resized_as_torchvision_resizes_a_tensor_without_antialiasing",
        ),
        Element(
            "size",
            "script: captions",
            "224 × 224 for both models",
            ours="each model's own, 224 for both",
            proof="tests/workers/checkpoints/test_openclip.py::test_both_models_of_paper_see_224_pixels",
        ),
        Element(
            "mean and standard deviation",
            "script: captions",
            "OpenAI's, for both models",
            ours="the same",
            proof=f"{_CAPTIONER}::test_the_captioner_sees_colours_normalised_by_clips_mean_and_deviation",
        ),
    ),
)

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
            "transformers 4.31",
            "divides the sum; it counts SOT, and not the EOS that ended the caption",
            {"captions.beam.length_penalty": 1.0, "captions.beam.counts_eos": False},
            proof=f"{_BEAM}::test_in_paper_a_beam_that_eos_ended_is_divided_as_transformers_4_31_does",
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
            proof="tests/workers/captions/test_row_sampler.py::test_a_forbidden_eos_is_gone_before_the_set_is_formed",
        ),
        Element(
            "length of a caption",
            "script: CoCa",
            "EOS from a prefix of 5 tokens on, forced as token 30; SOT counts",
            {"captions.min_length": 5, "captions.max_length": 30},
            proof=f"{_ENGINE}::test_every_rule_draws_the_tokens_of_the_plain_definition",
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
            reason="no score depends on it, and the export writes each draw again",
            unmeasured="what a trainer draws is measured [below](#training)",
        ),
    ),
)

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
            {"filtering.keep": [], "filtering.confidence": None, "captions.listening": None, "composing": None},
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
            "its correctness in place of distinctiveness",
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

_DRAW: Final = "tests/training/dataset/test_draw_weights.py"
_DISTINCT: Final = "by default (`distinct`) "

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
            proof="tests/schemas/test_lone_masks.py::test_the_better_half_is_what_the_authors_loader_draws_from",
        ),
        Element(
            "the draw by default",
            "script: loader",
            "as the three rows above",
            ours="no preset of a run sets it; the default is `distinct`",
            reason="an epoch shows more different texts, and none that the filter rejected. Accuracy is that of a "
            "text drawn for a mask, yield the share of masks with one. Repeats alone raise it; the fallback lowers it, "
            "all the more under the strict bounds of `tiny`, where half of the masks keep no text",
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

SECTIONS: Final = (MASKS, CROPS, CAPTIONS, FILTER, TRAINING, FAULTS)

"""Mutants of the exact rows of docs/conformance.md: masks, crops, captions and filtering."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_GENERATOR: Final = "tests/workers/masks/test_generator.py"
_INSTANCES: Final = "tests/workers/masks/test_instances.py"
_CROP_TESTS: Final = "tests/workers/crops/test_crops.py"
_CAPTIONER: Final = "tests/workers/captions/test_captioner.py"
_BEAM: Final = "tests/workers/captions/test_beam_search.py"
_DISTINCTIVE: Final = "tests/workers/captions/test_distinctive.py"
_ENGINE: Final = "tests/workers/captions/test_engine.py"
_SCORES: Final = "tests/workers/filtering/test_scores.py"
_SCORER: Final = "tests/workers/filtering/test_scorer.py"
_SPACY: Final = "tests/workers/filtering/test_head_nouns_spacy.py"
_PAPER: Final = "schemas/presets/paper.yaml"

_MASKS: Final = (
    Mutant(
        "SAM: another block without a window",
        _PAPER,
        "[7, 15, 23, 31]",
        "[7, 15, 23, 30]",
        ("tests/workers/checkpoints/test_models.py::test_the_paper_preset_builds_the_published_vit_h",),
    ),
    Mutant(
        "grid of points, no crop layer: points a whole cell from the border",
        "workers/masks/sam_frames.py",
        "half = 1 / (2 * points_per_side)",
        "half = 1 / points_per_side",
        (f"{_GENERATOR}::test_masks_order_boxes_and_codes_are_sams",),
    ),
    Mutant(
        "predicted IoU: at the bound too",
        "workers/masks/prompt_decoder.py",
        "predicted_iou > min_predicted_iou if",
        "predicted_iou >= min_predicted_iou if",
        (f"{_GENERATOR}::test_each_threshold_is_sams",),
    ),
    Mutant(
        "stability and its offset: strictly above",
        "workers/masks/mask_candidates.py",
        "stability >= min_stability",
        "stability > min_stability",
        (f"{_GENERATOR}::test_each_threshold_is_sams",),
    ),
    Mutant(
        "box NMS: by stability",
        "workers/masks/generator.py",
        "found.predicted_iou, self._config.box_nms_thresh",
        "found.stability, self._config.box_nms_thresh",
        (f"{_GENERATOR}::test_masks_order_boxes_and_codes_are_sams",),
    ),
    Mutant(
        "holes and islands: removed by default",
        "schemas/mask_settings.py",
        "min_mask_region_area: int = Field(default=0, ge=0)",
        "min_mask_region_area: int = Field(default=60, ge=0)",
        (f"{_GENERATOR}::test_small_regions_are_removed_as_sam_does",),
    ),
    Mutant(
        "resize of the image for SAM: bicubic",
        "workers/masks/sam_frames.py",
        "Image.Resampling.BILINEAR",
        "Image.Resampling.BICUBIC",
        (f"{_GENERATOR}::test_trained_masks_of_scenes_are_sams",),
    ),
    Mutant(
        "mask of an instance: that of the highest IoU",
        "schemas/mask_settings.py",
        'match: Literal["intersection", "iou"] = "intersection"',
        'match: Literal["intersection", "iou"] = "iou"',
        (f"{_INSTANCES}::test_in_paper_masks_are_those_of_the_authors_loop",),
    ),
    Mutant(
        "a mask that two instances choose: is kept once",
        _PAPER,
        "duplicates: keep",
        "duplicates: merge",
        (f"{_INSTANCES}::test_in_paper_a_mask_is_kept_once_for_each_instance_that_picks_it",),
    ),
    Mutant(
        "an instance that touches no mask: has none",
        _PAPER,
        "untouched: first_mask",
        "untouched: drop",
        (f"{_INSTANCES}::test_in_paper_an_instance_that_touches_no_mask_takes_the_generators_first",),
    ),
    Mutant(
        "an image without an instance: keeps all masks",
        "workers/masks/instances.py",
        "if not len(proposals) or not instances.counts:\n        return []",
        "if not len(proposals) or not instances.counts:\n        return [Kept(row) for row in range(len(proposals))]",
        (f"{_INSTANCES}::test_nothing_on_either_side_gives_nothing",),
    ),
    Mutant(
        "an image that is listed twice: is planned twice",
        "store/runs/shard_assignment.py",
        "            tally.num_repeated += 1\n            continue\n",
        "            tally.num_repeated += 1\n",
        ("tests/store/runs/test_shard_assignment.py::test_a_repeated_key_is_planned_once_and_counted",),
    ),
)

_CROPS: Final = (
    Mutant(
        "kinds of crops: the widest context at 1.3",
        "schemas/caption_settings.py",
        "= (1.0, 1.1, 1.2)",
        "= (1.0, 1.1, 1.3)",
        (f"{_CAPTIONER}::test_in_paper_the_captioner_sees_the_mask_and_the_image_around_it_at_three_scales",),
    ),
    Mutant(
        "masked crop: of the box at 1.2",
        "workers/crops/crops.py",
        "scale=scale or 1.0",
        "scale=scale or 1.2",
        (f"{_CROP_TESTS}::test_a_masked_crop_shows_the_mask_and_fills_the_rest",),
    ),
    Mutant(
        "growth of a box: its end is rounded down",
        "workers/crops/crops.py",
        "high = -((-twice_centre - span) // (2 * denominator))",
        "high = (twice_centre + span) // (2 * denominator)",
        (f"{_CROP_TESTS}::test_boxes_grow_about_their_centre_and_are_clipped",),
    ),
    Mutant(
        "padding: of an odd number, the start gets one pixel more",
        "workers/crops/crop_resampling.py",
        "before = ((sides - length) // 2)",
        "before = ((sides - length + 1) // 2)",
        (f"{_CROP_TESTS}::test_a_masked_crop_shows_the_mask_and_fills_the_rest",),
    ),
    Mutant(
        "resize: with antialiasing for CLIP",
        _PAPER,
        "architecture: RN50-quickgelu\n  has_antialiasing: false",
        "architecture: RN50-quickgelu\n  has_antialiasing: true",
        (f"{_CROP_TESTS}::test_in_paper_crops_are_resized_as_torchvision_resizes_a_tensor_without_antialiasing",),
    ),
    Mutant(
        "order of normalising and resizing: the fill is not divided by the deviation",
        "workers/crops/crops.py",
        "(fill / 255 - mean) / std",
        "fill / 255 - mean",
        (f"{_CROP_TESTS}::test_in_paper_crops_are_resized_as_torchvision_resizes_a_tensor_without_antialiasing",),
    ),
    Mutant(
        "size: crops of 196 pixels for the captioner",
        "workers/captions/captioner.py",
        "model.visual.image_size[0], config.has_antialiasing",
        "model.visual.image_size[0] * 7 // 8, config.has_antialiasing",
        ("tests/workers/checkpoints/test_openclip.py::test_both_models_of_paper_see_224_pixels",),
    ),
    Mutant(
        "mean and standard deviation: another mean for CLIP",
        "workers/filtering/clip_embedder.py",
        'mean=tuple(tag.get("mean") or OPENAI_DATASET_MEAN)',
        "mean=(0.5, 0.5, 0.5)",
        (f"{_CAPTIONER}::test_both_models_see_colours_normalised_by_clips_mean_and_deviation",),
    ),
)

_CAPTIONS: Final = (
    Mutant(
        "architecture: CoCa ViT-B/32",
        _PAPER,
        "architecture: coca_ViT-L-14",
        "architecture: coca_ViT-B-32",
        ("tests/workers/checkpoints/test_openclip.py::test_both_models_of_paper_see_224_pixels",),
    ),
    Mutant(
        "weights: tuned on CC12M",
        _PAPER,
        "uri: checkpoints/pseudo-ris/laion_cc3m/checkpoints/epoch_1.pt",
        "uri: checkpoints/pseudo-ris/laion_cc12m/checkpoints/epoch_1.pt",
        (
            "tests/workers/checkpoints/test_models.py"
            "::test_in_paper_the_authors_captioner_is_read_as_their_trainer_wrote_it",
        ),
    ),
    Mutant(
        "captions of a crop: the last of equal ones alone",
        "workers/captions/captioner.py",
        "samples.setdefault((caption.mask_number, text), []).append(_sample(caption))",
        "samples[caption.mask_number, text] = [_sample(caption)]",
        (f"{_CAPTIONER}::test_in_paper_a_crop_gets_one_caption_of_each_of_the_eleven_rules",),
    ),
    Mutant(
        "beams and groups: 2 groups of 3 beams",
        "schemas/caption_settings.py",
        "num_groups: int = Field(default=3, ge=1)",
        "num_groups: int = Field(default=2, ge=1)",
        (f"{_BEAM}::test_one_group_finds_what_open_clips_groups_find",),
    ),
    Mutant(
        "score of a beam: the sum of log-probabilities",
        "schemas/caption_settings.py",
        'beam_score: Literal["logit", "logprob"] = "logit"',
        'beam_score: Literal["logit", "logprob"] = "logprob"',
        (f"{_ENGINE}::test_in_paper_the_best_beam_has_the_highest_sum_of_raw_logits",),
    ),
    Mutant(
        "length of a beam: counts EOS",
        _PAPER,
        "beam: {counts_eos: false}",
        "beam: {counts_eos: true}",
        (f"{_BEAM}::test_in_paper_a_beam_that_eos_ended_is_divided_as_transformers_4_30_does",),
    ),
    Mutant(
        "samplers: top-p with 0.9 in place of 0.8",
        "schemas/caption_settings.py",
        "= (0.4, 0.5, 0.6, 0.7, 0.8)",
        "= (0.4, 0.5, 0.6, 0.7, 0.9)",
        (f"{_CAPTIONER}::test_in_paper_a_crop_gets_one_caption_of_each_of_the_eleven_rules",),
    ),
    Mutant(
        "top-k set: k tokens, ties left out",
        "workers/captions/distinctive.py",
        "return ((ranked.logits >= bound) & (ranked.logits > -torch.inf)).sum(dim=1)",
        "return torch.minimum(k, ((ranked.logits >= bound) & (ranked.logits > -torch.inf)).sum(dim=1))",
        (f"{_DISTINCTIVE}::test_top_k_keeps_every_token_that_ties_with_the_kth",),
    ),
    Mutant(
        "top-p set: one token more where p is reached exactly",
        "workers/captions/distinctive.py",
        "before < p[:, None]",
        "before <= p[:, None]",
        (f"{_DISTINCTIVE}::test_top_p_keeps_the_smallest_set_that_reaches_p_with_the_crossing_token",),
    ),
    Mutant(
        "EOS below the least length: is not masked",
        "workers/captions/row_sampler.py",
        "self._vocabulary.top_logits(own, is_eos_allowed=is_eos_allowed)",
        "self._vocabulary.top_logits(own, is_eos_allowed=True)",
        ("tests/workers/captions/test_row_sampler.py::test_a_forbidden_eos_is_gone_before_the_set_is_formed",),
    ),
    Mutant(
        "length of a caption: EOS is forced as token 31",
        "schemas/caption_settings.py",
        "max_length: int = Field(default=30, ge=3)",
        "max_length: int = Field(default=31, ge=3)",
        (f"{_ENGINE}::test_in_paper_eos_may_be_token_6_and_is_token_30_where_sot_is_the_first",),
    ),
    Mutant(
        "the other masks' logits: of the first kind of crop",
        "workers/captions/distinctive.py",
        "indices.append(first + torch.cat((part.indices, own.expand(-1, missing)), dim=1))",
        "indices.append(torch.cat((part.indices, own.expand(-1, missing)), dim=1))",
        (f"{_ENGINE}::test_several_crop_kinds_keep_to_their_own_others",),
    ),
    Mutant(
        "similarity: not below zero",
        "workers/captions/engine.py",
        "choose_others(part @ part.t(), self._config.sampling)",
        "choose_others((part @ part.t()).clamp(min=0), self._config.sampling)",
        (f"{_ENGINE}::test_others_weigh_by_the_cosine_of_open_clips_embeddings_also_below_zero",),
    ),
    Mutant(
        "contrast: half of the mean",
        "schemas/caption_settings.py",
        "others_weight: NonNegative = 1.0",
        "others_weight: NonNegative = 0.5",
        (f"{_DISTINCTIVE}::test_the_contrast_is_a_softmax_of_the_difference_over_the_kept_tokens",),
    ),
    Mutant(
        "probability of EOS: the others are normalised again",
        "workers/captions/distinctive.py",
        "return torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, own_probabilities)",
        "return weights / weights.sum(dim=1, keepdim=True)",
        (f"{_DISTINCTIVE}::test_eos_takes_its_probability_from_the_targets_own_softmax_and_nothing_is_renormalised",),
    ),
    Mutant(
        "temperature: 0.7",
        "schemas/caption_settings.py",
        "others_weight: NonNegative = 1.0\n    temperature: float = Field(default=1.0, gt=0)",
        "others_weight: NonNegative = 1.0\n    temperature: float = Field(default=0.7, gt=0)",
        (f"{_DISTINCTIVE}::test_the_temperature_divides_the_difference",),
    ),
    Mutant(
        "one mask, or more than 30: 31 masks are contrasted",
        _PAPER,
        "max_others: 30, above_max_others: no_contrast",
        "max_others: 31, above_max_others: no_contrast",
        (f"{_ENGINE}::test_at_31_masks_the_tokens_are_those_of_the_plain_definition",),
    ),
    Mutant(
        "token 0: is a word",
        _PAPER,
        "pad_ends_caption: true",
        "pad_ends_caption: false",
        (f"{_ENGINE}::test_in_paper_a_drawn_token_0_ends_a_caption_as_the_plain_definition_ends_it",),
    ),
)

_FILTER: Final = (
    Mutant(
        "CLIP: without QuickGELU",
        _PAPER,
        "architecture: RN50-quickgelu",
        "architecture: RN50",
        (
            "tests/workers/checkpoints/test_weights.py"
            "::test_weights_trained_with_quickgelu_are_refused_by_an_architecture_without_it",
        ),
    ),
    Mutant(
        "texts and crops that are scored: the context at 1.1",
        "schemas/config.py",
        "context_scale: float = Field(default=1.2,",
        "context_scale: float = Field(default=1.1,",
        (f"{_SCORER}::test_scores_equal_the_definition_computed_on_open_clips_own_forward",),
    ),
    Mutant(
        "uniqueness, correctness, distinctiveness: against all masks, its own too",
        "workers/filtering/scores.py",
        "product[target, own] / others_product.max(axis=0)",
        "product[target, own] / product.max(axis=0)",
        (f"{_SCORES}::test_the_three_scores_are_those_of_a_calculation_by_hand",),
    ),
    Mutant(
        "threshold τ: 1.05",
        "schemas/config.py",
        "tau: NonNegative = 1.0",
        "tau: NonNegative = 1.05",
        ("tests/schemas/test_keep_rule.py::test_tau_is_a_strict_bound_and_lone_masks_pass",),
    ),
    Mutant(
        "other conditions: a text is drawn twice",
        _PAPER,
        "nouns: spacy_first_child",
        "nouns: spacy_first_child\n  keep: [count >= 2]",
        ("tests/schemas/test_keep_rule.py::test_all_conditions_hold_and_none_ask_nothing",),
    ),
    Mutant(
        "head noun: by rules",
        _PAPER,
        "nouns: spacy_first_child",
        "nouns: rules",
        (f"{_SPACY}::test_in_paper_the_head_is_of_the_roots_chunk_or_of_its_first_childs_alone",),
    ),
    Mutant(
        "prompt of a noun: no article behind a numeral",
        "workers/filtering/head_nouns.py",
        "return partial(noun_prompt, has_article=ARTICLES.__contains__)",
        "return partial(noun_prompt, has_article=is_determiner)",
        (f"{_SPACY}::test_in_paper_the_prompt_names_what_the_pipeline_finds_else_the_whole_caption",),
    ),
    Mutant(
        "candidates that are stored: the kept ones",
        "workers/filtering/scorer.py",
        "expressions=tuple(next(scored) if _is_candidate(e) else e for e in image.expressions)",
        "expressions=tuple(each for each in scored if each.kept)",
        (f"{_SCORER}::test_tau_decides_what_is_kept_and_changes_no_score",),
    ),
    Mutant(
        "a mask alone in its image: the better half of its captions is kept",
        "schemas/config.py",
        'lone_masks: LoneMasks = "keep"',
        'lone_masks: LoneMasks = "better_half"',
        (f"{_SCORES}::test_a_lone_mask_has_correctness_alone",),
    ),
)

MUTANTS: Final[tuple[Mutant, ...]] = (*_MASKS, *_CROPS, *_CAPTIONS, *_FILTER)

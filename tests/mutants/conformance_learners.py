"""Mutants of the exact rows of docs/conformance.md: training, metrics and PPT."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_DRAW: Final = "tests/training/dataset/test_draw_weights.py"
_CURRICULUM: Final = "tests/training/ppt/test_curriculum.py"
_PRESET: Final = "training/ppt/presets/paper.yaml"
_CONFIG: Final = "tests/training/ppt/test_ppt_config.py"
_LOSSES: Final = "tests/training/ppt/test_losses.py"
_MODEL: Final = "tests/training/ppt/test_ppt_model.py"
_COMPOSITION: Final = "tests/training/ppt/recipes/test_image_composition.py"
_RUNS: Final = "tests/training/ppt/recipes/test_recipe_runs.py"
_TRAINING: Final = "tests/training/ppt/test_ppt_training.py"

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        "what a visit to a mask draws: each text once, however often it was drawn",
        "training/dataset/draw_weights.py",
        'units = most if spec.draw == "pseudo_ris" else np.minimum(most, 1)',
        "units = np.minimum(most, 1)",
        (f"{_DRAW}::test_the_authors_draw_is_what_their_loader_draws_of_the_export",),
    ),
    Mutant(
        "a mask without a caption above τ: is left out",
        "training/dataset/draw_weights.py",
        "is_passing |= num_passing[masks] == 0",
        "is_passing |= num_passing[masks] < 0",
        (f"{_DRAW}::test_the_authors_draw_is_what_their_loader_draws_of_the_export",),
    ),
    Mutant(
        "a mask alone in its image: the half is rounded up",
        "schemas/lone_masks.py",
        "np.maximum(totals // 2, 1)",
        "np.maximum((totals + 1) // 2, 1)",
        ("tests/schemas/test_lone_masks.py::test_the_better_half_is_what_the_authors_loader_draws_from",),
    ),
    Mutant(
        "a mask alone in its image: of equal draws the first rows'",
        "schemas/lone_masks.py",
        "-np.arange(len(draws))",
        "np.arange(len(draws))",
        ("tests/schemas/test_lone_masks.py::test_the_better_half_is_what_the_authors_loader_draws_from",),
    ),
    Mutant(
        "captions of a mask in an epoch: two by default",
        "training/dataset/samples.py",
        "expressions_per_mask: int | None = 1",
        "expressions_per_mask: int | None = 2",
        (f"{_DRAW}::test_each_text_is_drawn_as_often_as_its_weight_says",),
    ),
    Mutant(
        "file that the authors' loader reads: a caption once, however often it was drawn",
        "training/exports/pseudo_ris_csv.py",
        "for sample in each.samples] or [last]",
        "for sample in each.samples[:1]] or [last]",
        (
            "tests/training/exports/test_pseudo_ris_csv.py"
            "::test_a_caption_stands_as_often_as_it_was_drawn_with_its_score_each_time",
        ),
    ),
    Mutant(
        "file that the authors' loader reads: without the captions below τ",
        "training/exports/pseudo_ris_csv.py",
        "is_kept_only=False",
        "is_kept_only=True",
        (
            "tests/training/exports/test_pseudo_ris_csv.py"
            "::test_a_caption_stands_as_often_as_it_was_drawn_with_its_score_each_time",
        ),
    ),
    Mutant(
        "semi-supervised mix: the human masks repeat until there are as many as without a fraction",
        "training/dataset/mixed_dataset.py",
        "self._num_human = len(self._chosen) if share is None",
        "self._num_human = len(human) if share is None",
        ("tests/training/dataset/test_mixed_dataset.py::test_all_of_the_machines_and_a_fraction_of_the_humans",),
    ),
    Mutant(
        "semi-supervised mix: the fraction is rounded down",
        "training/dataset/mixed_dataset.py",
        "max(round(fraction * len(mask_ids)), 1)",
        "max(int(fraction * len(mask_ids)), 1)",
        ("tests/training/dataset/test_mixed_dataset.py::test_all_of_the_machines_and_a_fraction_of_the_humans",),
    ),
    Mutant(
        "metrics: an IoU at the threshold passes",
        "training/metrics.py",
        "_mean(ious > at)",
        "_mean(ious >= at)",
        ("tests/training/test_metrics.py::test_hand_values",),
    ),
    Mutant(
        "encoder: another CLIP",
        _PRESET,
        'architecture: "ViT-B-16-quickgelu"',
        'architecture: "ViT-B-32-quickgelu"',
        (f"{_TRAINING}::test_no_weight_of_the_encoders_and_of_sam_is_trained",),
    ),
    Mutant(
        "encoder: is not frozen",
        "training/learning/frozen_towers.py",
        "self._model.requires_grad_(False)",
        "self._model.requires_grad_(True)",
        (f"{_TRAINING}::test_no_weight_of_the_encoders_and_of_sam_is_trained",),
    ),
    Mutant(
        "mask decoder: that of a deeper SAM",
        _PRESET,
        "encoder_depth: 12",
        "encoder_depth: 24",
        ("tests/training/ppt/test_point_mask_decoder.py::test_the_masks_are_those_of_sam_image_by_image",),
    ),
    Mutant(
        "mask decoder: negative points prompt as positive ones",
        "training/ppt/point_mask_decoder.py",
        "negative_row, positive_row = (encoder.point_embeddings[label].weight for label in (0, 1))",
        "negative_row, positive_row = (encoder.point_embeddings[label].weight for label in (1, 1))",
        ("tests/training/ppt/test_point_mask_decoder.py::test_the_masks_are_those_of_sam_image_by_image",),
    ),
    Mutant(
        "what is trained: not the first queries",
        "training/ppt/point_generator.py",
        "self.queries = nn.Parameter(torch.randn(config.num_queries, width))",
        "self.queries = nn.Parameter(torch.randn(config.num_queries, width), requires_grad=False)",
        (f"{_MODEL}::test_gradients_reach_all_of_the_point_generator_and_nothing_frozen",),
    ),
    Mutant(
        "what is trained: the mask decoder too",
        "training/ppt/ppt_model.py",
        "self._decoder = decoder",
        "self._decoder, self.decoder = decoder, decoder._decoder",
        (f"{_MODEL}::test_gradients_reach_all_of_the_point_generator_and_nothing_frozen",),
    ),
    Mutant(
        "trained parameters: a smaller feed-forward layer",
        _PRESET,
        "feed_forward_ratio: 2.875",
        "feed_forward_ratio: 2.75",
        (f"{_CONFIG}::test_paper_has_the_sizes_of_section_4_1",),
    ),
    Mutant(
        "queries of eq. 1: the text is read before the image",
        "training/ppt/point_generator.py",
        """\
        queries = self.read_image(queries, fused[0], query_position=query_position, context_position=position)
        queries = self.read_text(queries, fused[1], query_position=query_position, is_token=is_word)
""",
        """\
        queries = self.read_text(queries, fused[1], query_position=query_position, is_token=is_word)
        queries = self.read_image(queries, fused[0], query_position=query_position, context_position=position)
""",
        (f"{_MODEL}::test_a_stage_is_equation_1_queries_read_the_image_and_then_the_text",),
    ),
    Mutant(
        "queries of eq. 1: each stage begins with the first queries",
        "training/ppt/point_generator.py",
        """\
            queries, fused = stage(
                queries,
""",
        """\
            queries, fused = stage(
                self.queries.expand(text.shape[0], -1, -1),
""",
        (f"{_MODEL}::test_a_stage_is_equation_1_queries_read_the_image_and_then_the_text",),
    ),
    Mutant(
        "queries of eq. 1: begin at zero",
        "training/ppt/point_generator.py",
        "self.queries = nn.Parameter(torch.randn(",
        "self.queries = nn.Parameter(torch.zeros(",
        (f"{_MODEL}::test_a_stage_is_equation_1_queries_read_the_image_and_then_the_text",),
    ),
    Mutant(
        "CLIP's response beside the features: is read in paper",
        _PRESET,
        "is_response_read: false",
        "is_response_read: true",
        (f"{_MODEL}::test_in_paper_clips_response_changes_no_prompt",),
    ),
    Mutant(
        "CLIP's response beside the features: codes of tokens are read in paper",
        _PRESET,
        "is_response_read: false",
        "is_response_read: false\n  word_code_width: 16",
        (f"{_MODEL}::test_in_paper_clips_response_changes_no_prompt",),
    ),
    Mutant(
        "points and labels: coordinates are in [-1, 1]",
        "training/ppt/point_heads.py",
        "return places.sigmoid(), labels[..., 0]",
        "return places.tanh(), labels[..., 0]",
        (
            f"{_MODEL}"
            "::test_in_paper_points_labels_and_confidences_are_perceptrons_of_the_last_queries_as_in_equation_2",
        ),
    ),
    Mutant(
        "points and labels: the heads are linear",
        "training/ppt/point_heads.py",
        "nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs)",
        "nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, outputs)",
        (
            f"{_MODEL}"
            "::test_in_paper_points_labels_and_confidences_are_perceptrons_of_the_last_queries_as_in_equation_2",
        ),
    ),
    Mutant(
        "confidence: is squeezed twice",
        "training/ppt/point_heads.py",
        "learnt: torch.Tensor = self.layers(queries)[..., 0]",
        "learnt: torch.Tensor = self.layers(queries)[..., 0].sigmoid()",
        (
            f"{_MODEL}"
            "::test_in_paper_points_labels_and_confidences_are_perceptrons_of_the_last_queries_as_in_equation_2",
        ),
    ),
    Mutant(
        "text that CLIP reads: within a template",
        _PRESET,
        'prompt: "{}"',
        'prompt: "a photo of {}"',
        (f"{_CONFIG}::test_the_clip_of_paper_reads_the_expression_as_it_stands",),
    ),
    Mutant(
        "text that CLIP reads: without its article",
        "training/ppt/recipes/response_maps.py",
        'if prompt == "{}":',
        "if not prompt:",
        (f"{_CONFIG}::test_the_clip_of_paper_reads_the_expression_as_it_stands",),
    ),
    Mutant(
        "answer: of the query with the least confidence",
        "training/ppt/ppt_model.py",
        "prompts.confidence_logits.argmax(-1)",
        "prompts.confidence_logits.argmin(-1)",
        (f"{_MODEL}::test_a_prediction_a_query_and_the_answer_is_that_of_the_most_confident",),
    ),
    Mutant(
        "matching: the dearest assignment",
        "training/ppt/losses.py",
        "linear_sum_assignment(matrix[:, :count])",
        "linear_sum_assignment(matrix[:, :count], maximize=True)",
        (f"{_LOSSES}::test_the_assignment_is_the_cheapest_of_all",),
    ),
    Mutant(
        "loss of a matched pair: confidences are averaged over all queries",
        "training/ppt/ppt_model.py",
        "confidence_loss(prompts.confidence_logits, targets).sum() / len(pairs.rows)",
        "confidence_loss(prompts.confidence_logits, targets).mean()",
        (f"{_MODEL}::test_in_paper_the_loss_is_equation_4_summed_over_its_terms_and_averaged_over_matched_pairs",),
    ),
    Mutant(
        "loss of a matched pair: another weight of the dice",
        "training/ppt/ppt_config.py",
        "dice: NonNegative = 1.0",
        "dice: NonNegative = 2.0",
        (f"{_MODEL}::test_in_paper_the_loss_is_equation_4_summed_over_its_terms_and_averaged_over_matched_pairs",),
    ),
    Mutant(
        "cost of the matching: without the points",
        "training/ppt/losses.py",
        "(points + share * confidence).view(shape)",
        "(share * confidence).view(shape)",
        (f"{_LOSSES}::test_each_entry_of_the_cost_is_equation_4_of_its_pair",),
    ),
    Mutant(
        "cost of the matching: masks decide in paper",
        _PRESET,
        "# `objective` is equation 4 as written: every weight is 1.",
        "objective:\n  confidence_in_matching: 0.03",
        (f"{_LOSSES}::test_each_entry_of_the_cost_is_equation_4_of_its_pair",),
    ),
    Mutant(
        "optimiser, rate: a tenth of the rate",
        _PRESET,
        "peak_rate: 1.0e-3",
        "peak_rate: 1.0e-4",
        (f"{_MODEL}::test_in_paper_adam_trains_the_point_generator_alone_at_one_rate_without_decay",),
    ),
    Mutant(
        "optimiser, rate: AdamW",
        _PRESET,
        "optimiser: adam",
        "optimiser: adamw",
        (f"{_MODEL}::test_in_paper_adam_trains_the_point_generator_alone_at_one_rate_without_decay",),
    ),
    Mutant(
        "batch: 32 pairs",
        _PRESET,
        "pairs_per_batch: 64",
        "pairs_per_batch: 32",
        (f"{_TRAINING}::test_every_round_leaves_its_checkpoint_and_its_curves_and_every_phase_its_figures",),
    ),
    Mutant(
        "text of D_sem: another one",
        "training/ppt/recipes/recipe_texts.py",
        'MIDDLE: Final = "the {name} in the middle"',
        'MIDDLE: Final = "the {name} right in the middle"',
        (f"{_RUNS}::test_an_object_centric_image_has_its_class_in_the_middle_as_the_referent",),
    ),
    Mutant(
        "pseudo-labels of D_sem: one for each of two peaks",
        "training/ppt/recipes/response_maps.py",
        "HIGHEST: Final = Peaks()",
        "HIGHEST: Final = Peaks(2, 0.5)",
        (f"{_RUNS}::test_an_object_centric_image_has_its_class_in_the_middle_as_the_referent",),
    ),
    Mutant(
        "from a text to a mask: surgery in fewer blocks",
        "training/ppt/recipes/recipe_config.py",
        '"grounding.surgery_blocks=6"',
        '"grounding.surgery_blocks=5"',
        (
            "tests/training/ppt/recipes/test_response_maps.py"
            "::test_in_paper_a_response_is_clip_surgerys_in_six_blocks_with_its_feature_surgery",
        ),
    ),
    Mutant(
        "from a text to a mask: classes are weighted after their mean is taken away",
        "workers/clip_features.py",
        'weights[:, :, None, None] * torch.einsum("bdhw,kd->bkhw", F.normalize(dense, dim=1), texts)\n'
        "    return responses - responses.mean(dim=1, keepdim=True)",
        'torch.einsum("bdhw,kd->bkhw", F.normalize(dense, dim=1), texts)\n'
        "    return weights[:, :, None, None] * (responses - responses.mean(dim=1, keepdim=True))",
        (
            "tests/training/ppt/recipes/test_response_maps.py"
            "::test_in_paper_a_response_is_clip_surgerys_in_six_blocks_with_its_feature_surgery",
        ),
    ),
    Mutant(
        "points of a pseudo-label: of another distribution",
        "training/ppt/pseudo_labels.py",
        "rng.uniform(low, high, size=(num_points, 2))",
        "rng.triangular(low, (low + high) / 2, high, size=(num_points, 2))",
        (
            "tests/training/ppt/test_pair_dataset.py"
            "::test_points_lie_in_the_box_and_their_labels_say_whether_the_mask_holds_them",
        ),
    ),
    Mutant(
        "points of a pseudo-label: the same in every epoch",
        "training/ppt/pair_dataset.py",
        "key_of(_POINTS, self._spec.seed, self.epoch, row.image_id, row.text, mask_id)",
        "key_of(_POINTS, self._spec.seed, row.image_id, row.text, mask_id)",
        (
            "tests/training/ppt/test_pair_dataset.py"
            "::test_points_lie_in_the_box_and_their_labels_say_whether_the_mask_holds_them",
        ),
    ),
    Mutant(
        "points of a pseudo-label: all are positive",
        "training/ppt/pseudo_labels.py",
        "labels = mask[at[:, 1], at[:, 0]].astype(np.float32)",
        "labels = np.ones(num_points, np.float32)",
        (
            "tests/training/ppt/test_pair_dataset.py"
            "::test_points_lie_in_the_box_and_their_labels_say_whether_the_mask_holds_them",
        ),
    ),
    Mutant(
        "composition: windows cut the object",
        "training/ppt/recipes/image_composition.py",
        "start = int(rng.integers(max(0, high - length), min(low, full - length) + 1))",
        "start = int(rng.integers(full - length + 1))",
        (f"{_COMPOSITION}::test_each_object_of_a_mosaic_lies_in_its_cell_and_shows_its_own_pixels",),
    ),
    Mutant(
        "composition: texts say bottom of what is at the top",
        "training/ppt/recipes/image_composition.py",
        "position_texts(piece.name, layout, (row, column))",
        "position_texts(piece.name, layout, (rows - 1 - row, column))",
        (f"{_COMPOSITION}::test_each_object_of_a_mosaic_lies_in_its_cell_and_shows_its_own_pixels",),
    ),
    Mutant(
        "fusion: the text says the opposite",
        "training/ppt/recipes/image_composition.py",
        "relation_texts(embedded.name, relation, base.name)",
        "relation_texts(embedded.name, _OPPOSITE[relation], base.name)",
        (f"{_COMPOSITION}::test_a_fusion_tells_the_relation_that_its_masks_have",),
    ),
    Mutant(
        "fusion: the object alone is embedded in paper",
        "training/ppt/recipes/recipe_config.py",
        '"compose.embedded=image"',
        '"compose.embedded=object"',
        (f"{_COMPOSITION}::test_a_fusion_tells_the_relation_that_its_masks_have",),
    ),
    Mutant(
        "fusion: of an embedded image the object alone is seen",
        "training/ppt/recipes/image_composition.py",
        'cover = over.mask if config.embedded == "object" else np.ones_like(over.mask)',
        "cover = over.mask",
        (f"{_COMPOSITION}::test_a_fusion_tells_the_relation_that_its_masks_have",),
    ),
    Mutant(
        "pseudo-labels of D_ref: without the contexts",
        "training/ppt/recipes/d_ref.py",
        "mask_ids, [at == target for at in range(len(mask_ids))], kind=composed.kind)",
        "mask_ids[target : target + 1], [True], kind=composed.kind)",
        (f"{_RUNS}::test_a_composed_image_has_one_referent_a_text_and_all_others_as_contexts",),
    ),
    Mutant(
        "pseudo-labels of D_ref: a context is the referent",
        "training/ppt/recipes/d_ref.py",
        "said = composed.texts[target]",
        "said = composed.texts[target - 1]",
        (f"{_RUNS}::test_a_composed_image_has_one_referent_a_text_and_all_others_as_contexts",),
    ),
    Mutant(
        "candidates of a pair in H: several for each noun phrase in paper",
        "training/ppt/recipes/recipe_config.py",
        "peaks_per_phrase: int = Field(default=1, ge=1, le=16)",
        "peaks_per_phrase: int = Field(default=3, ge=1, le=16)",
        (
            "tests/training/ppt/recipes/test_h_pairs.py"
            "::test_whole_noun_phrases_are_asked_for_and_not_their_heads_alone",
        ),
    ),
    Mutant(
        "candidates of a pair in H: one for the head noun alone",
        "training/ppt/recipes/h_pairs.py",
        "noun_phrases(text) or [text] for text",
        "[head_noun(text) or text] for text",
        (
            "tests/training/ppt/recipes/test_h_pairs.py"
            "::test_whole_noun_phrases_are_asked_for_and_not_their_heads_alone",
        ),
    ),
    Mutant(
        "H_sem and H_ref: of several candidates the first is the referent",
        "training/ppt/recipes/h_pairs.py",
        "confidences = [len(places) == 1] * len(places)",
        "confidences = [at == places[0] for at in places]",
        (f"{_RUNS}::test_one_pseudo_mask_is_decided_and_several_are_not",),
    ),
    Mutant(
        "stages and what they train on: D_ref without D_sem",
        "training/ppt/curriculum.py",
        'sources=("h_sem", "d_sem", "d_ref")',
        'sources=("h_sem", "d_ref")',
        (f"{_CURRICULUM}::test_the_papers_curriculum_has_its_mixes_and_its_fifty_epochs",),
    ),
    Mutant(
        "epochs: half of them in paper",
        _PRESET,
        "# `objective` is equation 4 as written: every weight is 1.",
        "curriculum:\n  epochs_factor: 0.5",
        (f"{_CURRICULUM}::test_the_papers_curriculum_has_its_mixes_and_its_fifty_epochs",),
    ),
    Mutant(
        "epochs: fewer at the end",
        "training/ppt/curriculum.py",
        'sources=("h_sem", "h_ref"), epochs=10',
        'sources=("h_sem", "h_ref"), epochs=5',
        (f"{_CURRICULUM}::test_the_papers_curriculum_has_its_mixes_and_its_fifty_epochs",),
    ),
    Mutant(
        "candidates that are not chosen: all that reach the bound are referents",
        "training/ppt/referent_selection.py",
        "chosen[best] = 1.0",
        "chosen[ious >= min_iou] = 1.0",
        (
            "tests/training/ppt/test_referent_selection.py"
            "::test_the_pseudo_mask_of_the_highest_iou_is_the_referent_and_no_other",
        ),
    ),
    Mutant(
        "metrics: no P@0.3",
        "training/metrics.py",
        "PRECISION_AT: Final = (0.3, 0.5,",
        "PRECISION_AT: Final = (0.5,",
        ("tests/training/test_metrics.py::test_hand_values",),
    ),
)

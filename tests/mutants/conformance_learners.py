"""Mutants of the exact rows of docs/conformance.md: training, metrics and PPT."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_DRAW: Final = "tests/training/dataset/test_draw_weights.py"
_PRESET: Final = "training/ppt/presets/paper.yaml"
_CONFIG: Final = "tests/training/ppt/test_ppt_config.py"
_LOSSES: Final = "tests/training/ppt/test_losses.py"
_MODEL: Final = "tests/training/ppt/test_ppt_model.py"
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
)

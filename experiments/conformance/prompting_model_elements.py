"""Elements of PPT: its model and its losses."""

from __future__ import annotations

from typing import Final

from experiments.conformance.elements import NOT_STATED, Element, Section

_MODEL: Final = "tests/training/ppt/test_ppt_model.py"
_TRAINING: Final = "tests/training/ppt/test_ppt_training.py"
_CONFIG: Final = "tests/training/ppt/test_ppt_config.py"
_LOSSES: Final = "tests/training/ppt/test_losses.py"
# The words for what a paper leaves open.
_OPEN: Final = "not stated"
_NEEDS_TRAINING: Final = "each value is a training of its own; the ablation in [ppt](ppt.md) measures the curriculum"
_SEARCHED: Final = "[ppt](ppt.md) has the trials that led to it"

ARCHITECTURE: Final = Section(
    "PPT: architecture",
    (
        Element(
            "encoder",
            "§4.1",
            "CLIP ViT-B/16, frozen",
            {
                "ppt:clip.architecture": "ViT-B-16-quickgelu",
                "ppt:clip.weights.uri": "open_clip:ViT-B-16-quickgelu/openai",
            },
            proof=f"{_TRAINING}::test_no_weight_of_the_encoders_and_of_sam_is_trained",
        ),
        Element(
            "mask decoder",
            "§3.1.1, §4.1",
            "SAM ViT-B, frozen, prompted with positive and negative points",
            {"ppt:sam.architecture": "vit_b"},
            proof="tests/training/ppt/test_point_mask_decoder.py::test_the_masks_are_those_of_sam_image_by_image",
        ),
        Element(
            "image that CLIP sees, word features",
            "§3.1.1",
            _OPEN,
            ours="the image stretched to CLIP's square, antialiased; the text tower's last layer at each token",
            reason="stretched, no part of a wide image is lost. Features are kept in float16",
            unmeasured="scenes are square",
        ),
        Element(
            "mask of a prompt",
            "§3.1.1",
            _OPEN,
            ours="SAM's single mask, not one of its three",
            reason="a prompt has many points, for which SAM has the single mask",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "what is trained",
            "§3.1.1",
            "the point generator alone",
            ours="the same",
            proof=f"{_MODEL}::test_gradients_reach_all_of_the_point_generator_and_nothing_frozen",
        ),
        Element(
            "trained parameters",
            "table 2",
            "20.7 M",
            ours="20.74 M; width, heads and feed-forward below are chosen for it",
            others="0.55 M",
            proof=f"{_CONFIG}::test_paper_has_the_sizes_of_section_4_1",
        ),
        Element(
            "queries of eq. 1",
            "§3.1.1, eq. 1",
            "Q_(n+1) = CrossAttn(CrossAttn(Q_n, V'_n), T_n); Q_1 learnt, from random values",
            ours="the same",
            proof=f"{_MODEL}::test_a_stage_is_equation_1_queries_read_the_image_and_then_the_text",
        ),
        Element(
            "layers of eq. 1, of both heads",
            "§3.1.1",
            "“classical cross-attention”, perceptrons; more is not stated",
            ours="norms in front, a feed-forward layer behind; two hidden layers and GELU",
            reason="norms in front train without a long warm-up",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "K, M, N",
            "§3.1.1",
            _OPEN,
            {
                "ppt:generator.num_queries": NOT_STATED,
                "ppt:generator.num_points": NOT_STATED,
                "ppt:generator.image_blocks": NOT_STATED,
            },
            reason="chosen: several times the noun phrases of a text; points on both sides of an outline; late blocks",
            unmeasured=_SEARCHED,
        ),
        Element(
            "width, heads, feed-forward",
            "§3.1.1",
            _OPEN,
            {
                "ppt:generator.width": NOT_STATED,
                "ppt:generator.num_heads": NOT_STATED,
                "ppt:generator.feed_forward_ratio": NOT_STATED,
            },
            reason="chosen to meet the number of parameters",
            unmeasured=_SEARCHED,
        ),
        Element(
            "dropout",
            "§3.1.1",
            _OPEN,
            {"ppt:generator.dropout": NOT_STATED},
            reason="points and flips differ in each epoch already",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "fusion of image and text at a stage",
            "§3.1.1",
            "“following [63]” (ETRIS)",
            ours="patches read words and are multiplied with them, words read patches; a stage passes its state on",
            reason="the bridge of ETRIS writes back into towers that it trains; these are frozen and read once",
            unmeasured=_SEARCHED,
        ),
        Element(
            "positions",
            "§3.1.1",
            _OPEN,
            ours="sines of the patches' places are added to what is read, and queries have learnt positions",
            reason="a frozen CLIP hardly encodes a coordinate",
            unmeasured=_SEARCHED,
        ),
        Element(
            "CLIP's response beside the features",
            "eq. 1",
            "is not read",
            {
                "ppt:generator.is_response_read": False,
                "ppt:generator.response_gain": 0.0,
                "ppt:generator.anchor_gain": 0.0,
                "ppt:generator.word_code_width": 0,
            },
            proof=f"{_MODEL}::test_in_paper_clips_response_changes_no_prompt",
        ),
        Element(
            "points and labels",
            "eq. 2",
            "PointHead(q_k): a perceptron regresses both from the query, coordinates in [0, 1]",
            {"ppt:generator.point_head": "regression"},
            proof=f"{_MODEL}"
            "::test_in_paper_points_labels_and_confidences_are_perceptrons_of_the_last_queries_as_in_equation_2",
        ),
        Element(
            "confidence",
            "eq. 2",
            "ScoreHead(q_k), an independent perceptron",
            ours="the same",
            others="begins at CLIP's response where the query looks",
            proof=f"{_MODEL}"
            "::test_in_paper_points_labels_and_confidences_are_perceptrons_of_the_last_queries_as_in_equation_2",
        ),
        Element(
            "text that CLIP reads",
            "§3.1.1",
            "the expression",
            {"ppt:clip.prompt": "{}"},
            proof=f"{_CONFIG}::test_the_clip_of_paper_reads_the_expression_as_it_stands",
        ),
        Element(
            "gradient through a label",
            "§3.1.1",
            _OPEN,
            ours="forward a choice of two embeddings, backward their mixture",
            reason="SAM's prompt encoder takes a label, not a probability",
            unmeasured="without it, labels have no gradient from masks",
        ),
        Element(
            "answer",
            "§3.1.2",
            "the mask of the query with the highest confidence",
            ours="the same",
            proof=f"{_MODEL}::test_a_prediction_a_query_and_the_answer_is_that_of_the_most_confident",
        ),
    ),
    other_presets="`tiny`",
)

OBJECTIVE: Final = Section(
    "PPT: objective",
    (
        Element(
            "matching",
            "§3.1.2",
            "Hungarian, of predictions and pseudo-labels",
            ours="the same, by the loss itself",
            proof=f"{_LOSSES}::test_the_assignment_is_the_cheapest_of_all",
        ),
        Element(
            "loss of a matched pair",
            "eq. 4",
            "ℓ_mask + ℓ_pt + ℓ_bce; ℓ_mask is dice and cross-entropy, ℓ_pt is L1 and cross-entropy",
            {
                "ppt:objective.dice": 1.0,
                "ppt:objective.mask_cross_entropy": 1.0,
                "ppt:objective.point_l1": 1.0,
                "ppt:objective.point_label": 1.0,
                "ppt:objective.confidence": 1.0,
                "ppt:objective.look": 0.0,
            },
            proof=f"{_MODEL}"
            "::test_in_paper_the_loss_is_equation_4_summed_over_its_terms_and_averaged_over_matched_pairs",
        ),
        Element(
            "cost of the matching",
            "§3.1.2, eq. 4",
            "the loss",
            {"ppt:objective.confidence_in_matching": 1.0},
            proof=f"{_LOSSES}::test_each_entry_of_the_cost_is_equation_4_of_its_pair",
        ),
        Element(
            "queries without a pseudo-label",
            "eq. 4",
            _OPEN,
            ours="their confidence is to be 0; the sum over all K queries is divided by the matched pairs, so that a "
            "pair has K / E terms",
            reason="the answer is the argmax over all K: a query that is never told no may answer. So DETR does",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "means and smoothing",
            "eq. 4",
            _OPEN,
            ours="cross-entropy is a mean over the mask's cells, ℓ_pt over the M points, the loss over matched pairs; "
            "dice is smoothed by 1",
            reason="so that no term grows with the size of a mask, a prompt or a batch",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "which point answers for which",
            "eq. 4",
            _OPEN,
            {"ppt:objective.point_correspondence": NOT_STATED},
            reason="a second assignment: the points of a pseudo-label are drawn in no order. `order` is beside it",
            unmeasured="as a row of the ablation in [ppt](ppt.md)",
        ),
        Element(
            "padding of an image that is not square",
            "§3.1.2",
            _OPEN,
            ours="counts in no mask, no loss, no choice",
            reason="SAM's output there says nothing",
            unmeasured="scenes are square",
        ),
        Element(
            "optimiser, rate",
            "§4.1",
            "Adam, 0.001",
            {"ppt:training.optimiser": "adam", "ppt:training.peak_rate": 0.001},
            proof=f"{_MODEL}::test_in_paper_adam_trains_the_point_generator_alone_at_one_rate_without_decay",
        ),
        Element(
            "batch",
            "§4.1",
            "64",
            {"ppt:data.pairs_per_batch": 64},
            ours="pairs of an image and a text",
            proof=f"{_TRAINING}::test_every_round_leaves_its_checkpoint_and_its_curves_and_every_phase_its_figures",
        ),
        Element(
            "pairs of one image in a batch",
            "§4.1",
            _OPEN,
            {"ppt:data.pairs_per_image": NOT_STATED},
            reason="pairs are drawn one by one, as of any data set",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "schedule, warm-up, decay, norm of a gradient",
            "§4.1",
            _OPEN,
            {
                "ppt:training.schedule": NOT_STATED,
                "ppt:training.num_warmup_steps": NOT_STATED,
                "ppt:training.weight_decay": NOT_STATED,
                "ppt:training.max_gradient_norm": NOT_STATED,
            },
            reason="plain Adam; the norm is bounded, because a mask of a few pixels can have a very large gradient",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "precision",
            "§4.1",
            _OPEN,
            {"ppt:training.precision": NOT_STATED},
            reason="speed on a GPU; heads, coordinates and losses stay in float32",
            unmeasured="a test holds half precision to single precision on a short training",
        ),
    ),
    other_presets="`tiny`",
)

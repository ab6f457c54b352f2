"""The elements of PPT (Dai and Yang, CVPR 2024): architecture, objective, data, curriculum, evaluation."""

from __future__ import annotations

from typing import Final

from experiments.conformance.elements import NOT_STATED, Element, Section

_MODEL: Final = "tests/training/ppt/test_ppt_model.py"
_TRAINING: Final = "tests/training/ppt/test_ppt_training.py"
_CONFIG: Final = "tests/training/ppt/test_ppt_config.py"
_LOSSES: Final = "tests/training/ppt/test_losses.py"
_RUNS: Final = "tests/training/ppt/recipes/test_recipe_runs.py"
_CURRICULUM: Final = "tests/training/ppt/test_curriculum.py"
_SELECT: Final = "tests/training/ppt/test_referent_selection.py"
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
            {"ppt:sam.architecture.encoder_width": 768, "ppt:sam.architecture.encoder_depth": 12},
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

DATA: Final = Section(
    "PPT: data",
    (
        Element(
            "text of D_sem",
            "§3.2",
            "“the [class name] in the middle”",
            ours="the same",
            proof=f"{_RUNS}::test_an_object_centric_image_has_its_class_in_the_middle_as_the_referent",
        ),
        Element(
            "pseudo-labels of D_sem",
            "§3.2",
            "one, ĉ = 1",
            ours="the same",
            proof=f"{_RUNS}::test_an_object_centric_image_has_its_class_in_the_middle_as_the_referent",
        ),
        Element(
            "images of D_sem",
            "§4.1",
            "2,836 of Mini-ImageNet",
            ours="the user's folders, a class each; of `tiny`, drawn objects",
            reason="data is not ours to ship",
            unmeasured="needs ImageNet",
        ),
        Element(
            "transformations",
            "§3.2",
            "“such as flipping”, at random",
            {"ppt:data.is_flipping": True},
            ours="a pair whose text names a side is never mirrored",
            reason="a mirror makes “left” untrue",
            unmeasured="the paper does not say what it does with such texts",
        ),
        Element(
            "from a text to a mask",
            "§3.2",
            "CLIP Surgery [32], then SAM",
            {"recipes:grounding.surgery_blocks": 6, "recipes:grounding.is_feature_surgery": True},
            proof="tests/training/ppt/recipes/test_response_maps.py"
            "::test_in_paper_a_response_is_clip_surgerys_in_six_blocks_less_that_of_the_redundant_texts",
        ),
        Element(
            "models of the pseudo-masks",
            "§3.2",
            "CLIP and SAM; of which size is not stated",
            {
                "recipes:run.filtering.architecture": NOT_STATED,
                "recipes:run.filtering.weights.uri": NOT_STATED,
                "recipes:run.masks.architecture.encoder_width": NOT_STATED,
                "recipes:run.masks.architecture.encoder_depth": NOT_STATED,
            },
            reason="those of §4.1, which the training has",
            unmeasured="needs trained models of that size",
        ),
        Element(
            "text that the pseudo-masks' CLIP reads",
            "§3.2, §3.3",
            "the class, or a noun phrase; no template is stated",
            {"recipes:grounding.prompt": NOT_STATED},
            reason="CLIP's own template: it has learnt from sentences. The phrase stands in it without its article",
            unmeasured="needs a CLIP of that size: the one of `tiny` is trained on its own texts",
        ),
        Element(
            "redundant texts of CLIP Surgery",
            "§3.2, §3.3",
            _OPEN,
            {"recipes:pairs.num_redundant": NOT_STATED},
            ours="of D_sem all classes; of H the most frequent nouns of the run",
            reason="expressions have no list of classes",
            unmeasured="needs a CLIP of that size: the response of `tiny` has no feature surgery",
        ),
        Element(
            "texts of an image in H",
            "§3.3",
            _OPEN,
            {"recipes:pairs.max_texts_per_image": NOT_STATED},
            ours="equal ones once",
            reason="two equal texts would be one pair twice",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "prompt of SAM, and choice among its masks",
            "§3.2",
            _OPEN,
            {"recipes:grounding.prompts": NOT_STATED, "recipes:grounding.choice": NOT_STATED},
            reason="the peak, and the mask that agrees best with the response: measured in [ppt](ppt.md#measured)",
            unmeasured="there, over 200 object-centric images",
        ),
        Element(
            "points of a pseudo-label",
            "§3.2",
            "M, uniform in the mask's box; positive inside the mask, negative outside",
            ours="the same, drawn anew each epoch",
            proof="tests/training/ppt/test_pair_dataset.py"
            "::test_points_lie_in_the_box_and_their_labels_say_whether_the_mask_holds_them",
        ),
        Element(
            "composition",
            "§3.2",
            "Mosaic-like: images scaled and pasted, texts with absolute positions",
            ours="windows that hold the whole object, in the cells of a grid",
            proof="tests/training/ppt/recipes/test_image_composition.py"
            "::test_each_object_of_a_mosaic_lies_in_its_cell_and_shows_its_own_pixels",
        ),
        Element(
            "layouts, share of mosaics, repeated classes, number of images",
            "§3.2",
            _OPEN,
            {
                "recipes:compose.layouts": NOT_STATED,
                "recipes:compose.mosaic_share": NOT_STATED,
                "recipes:compose.same_class_share": NOT_STATED,
                "recipes:compose.images_per_source": NOT_STATED,
                "recipes:compose.texts_per_image": NOT_STATED,
            },
            reason="half of the mosaics repeat a class, so that the place must tell two apart",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "fusion",
            "§3.2",
            "one image is embedded in another; the text says how they lie",
            {"recipes:compose.embedded": "image"},
            proof="tests/training/ppt/recipes/test_image_composition.py"
            "::test_a_fusion_tells_the_relation_that_its_masks_have",
        ),
        Element(
            "size of what is embedded, what must stay visible",
            "§3.2",
            _OPEN,
            {"recipes:compose.embedded_side": NOT_STATED, "recipes:compose.min_visible": NOT_STATED},
            reason="the base must still be seen, and the relation be clear",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "size and format of a composed image",
            "§3.2",
            _OPEN,
            {"recipes:compose.side_px": NOT_STATED, "recipes:compose.image_format": NOT_STATED},
            reason="the longer side of COCO's photographs, in their format",
            unmeasured="SAM and CLIP resize it, each to its own size",
        ),
        Element(
            "pseudo-labels of D_ref",
            "§3.2",
            "every object; ĉ is 1 for the referent, 0 for contexts",
            ours="the same",
            proof=f"{_RUNS}::test_a_composed_image_has_one_referent_a_text_and_all_others_as_contexts",
        ),
        Element(
            "candidates of a pair in H",
            "§3.3",
            "one for each noun phrase, found as in D_sem",
            {"recipes:pairs.peaks_per_phrase": 1},
            proof="tests/training/ppt/recipes/test_h_pairs.py"
            "::test_whole_noun_phrases_are_asked_for_and_not_their_heads_alone",
        ),
        Element(
            "noun phrases",
            "§3.3",
            "of the expression; how they are found is not stated",
            ours="by rules, without a parser; articles, numbers and places are not shown to CLIP",
            reason="no model is needed, and a place is nothing that CLIP can see",
            unmeasured="a trained parser to compare with cannot be had where this was built",
        ),
        Element(
            "candidates that are alike",
            "§3.3",
            _OPEN,
            {"recipes:pairs.merge_iou": NOT_STATED},
            reason="two phrases may name one object: their masks are one candidate",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "H_sem and H_ref",
            "§3.3",
            "one candidate: ĉ = 1; several: all ĉ = 0",
            ours="the same",
            proof=f"{_RUNS}::test_one_pseudo_mask_is_decided_and_several_are_not",
        ),
        Element(
            "most candidates of a pair",
            "§3.3",
            "no bound",
            {"ppt:data.max_candidates": NOT_STATED},
            reason="each needs a query of its own",
            unmeasured="a warning counts the texts that it touches",
        ),
    ),
    other_presets="`tiny`",
)

CURRICULUM: Final = Section(
    "PPT: curriculum and evaluation",
    (
        Element(
            "stages and what they train on",
            "eq. 5–7",
            "θ_sem: H_sem ∪ D_sem; θ_refD: and D_ref; θ_ref: D_all with H'_ref; θ^(i): H_ref^(i) ∪ H_sem",
            ours="the same; of θ_refD the text says “exclusively on D_ref” and writes the union: the union is read",
            proof=f"{_CURRICULUM}::test_the_papers_curriculum_has_its_mixes_and_its_fifty_epochs",
        ),
        Element(
            "epochs",
            "§4.1",
            "10, 30 and 10",
            {"ppt:curriculum.epochs_factor": 1.0},
            ours="the same, times this factor",
            proof=f"{_CURRICULUM}::test_the_papers_curriculum_has_its_mixes_and_its_fifty_epochs",
        ),
        Element(
            "split of the 30 epochs, number of rounds",
            "§3.3",
            _OPEN,
            ours="15 and 15; five rounds of two epochs",
            reason="Select's choices are trained on no longer than the model took to learn to choose",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "Select",
            "eq. 6–7",
            "the pseudo-referent among the candidates, by the model",
            ours="the candidate of the highest IoU with the mask of the most confident query; each round chooses anew",
            reason="the paper does not say how a prediction chooses",
            unmeasured="how often it is right is in the ablation's table of Select, in [ppt](ppt.md)",
        ),
        Element(
            "least agreement for a choice",
            "eq. 6–7",
            "none",
            {"ppt:curriculum.min_iou": 0.0},
            reason="below it a pair stays undecided until another round: a prediction beside all of them is no choice",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "candidates that are not chosen",
            "§3.2, eq. 6–7",
            "contexts, ĉ = 0",
            ours="the same",
            proof=f"{_SELECT}::test_the_pseudo_mask_of_the_highest_iou_is_the_referent_and_no_other",
        ),
        Element(
            "averages of Adam between stages",
            "§4.1",
            _OPEN,
            ours="carried on, as of one training",
            reason="the stages are one training of 50 epochs",
            unmeasured=_NEEDS_TRAINING,
        ),
        Element(
            "metrics",
            "§4.1",
            "mIoU, P@0.3, P@0.5, P@0.7",
            ours="the same, and others",
            proof="tests/training/test_metrics.py::test_hand_values",
        ),
    ),
    other_presets="`tiny`",
)

SECTIONS: Final = (ARCHITECTURE, OBJECTIVE, DATA, CURRICULUM)

"""Elements of PPT: the data that it makes and the curriculum over them."""

from __future__ import annotations

from typing import Final

from experiments.conformance.elements import NOT_STATED, Element, Section

_RUNS: Final = "tests/training/ppt/recipes/test_recipe_runs.py"
_CURRICULUM: Final = "tests/training/ppt/test_curriculum.py"
_SELECT: Final = "tests/training/ppt/test_referent_selection.py"
# The words for what a paper leaves open.
_OPEN: Final = "not stated"
_NEEDS_TRAINING: Final = "each value is a training of its own; the ablation in [ppt](ppt.md) measures the curriculum"

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
            "::test_in_paper_a_response_is_clip_surgerys_in_six_blocks_with_its_feature_surgery",
        ),
        Element(
            "models of the pseudo-masks",
            "§3.2",
            "CLIP and SAM; of which size is not stated",
            {
                "recipes:run.filtering.architecture": NOT_STATED,
                "recipes:run.filtering.weights.uri": NOT_STATED,
                "recipes:run.masks.architecture": NOT_STATED,
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
            ours="of D_sem all classes; of H the empty prompt, CLIP Surgery's for a text alone",
            reason="expressions have no list of classes. `pairs.num_redundant` takes the run's most frequent nouns in "
            "place of the empty prompt",
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
            "§3.2; CLIP Surgery's code",
            "points: of the response at half its resolution all cells from 0.8 of the range on, at most half of them, "
            "and as many of the lowest; SAM's single mask. The paper does not state which it takes",
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
            reason="no model is needed, and a place is nothing that CLIP can see. A text without a phrase is asked "
            "whole",
            unmeasured="a trained parser to compare with cannot be had where this was built",
        ),
        Element(
            "candidates that are alike",
            "§3.3",
            _OPEN,
            {"recipes:pairs.merge_iou": NOT_STATED},
            reason="two phrases may name one object: their masks are one candidate, also where two texts of the image "
            "have them. So a candidate may be a near-equal mask of another text",
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

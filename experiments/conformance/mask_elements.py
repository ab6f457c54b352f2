"""Elements of Pseudo-RIS: SAM's masks (script *masks*, generate_masks/cutler_sam_masks.py) and the crops of them."""

from __future__ import annotations

from typing import Final

from experiments.conformance.elements import Element, Section

_GENERATOR: Final = "tests/workers/masks/test_generator.py::test_masks_order_boxes_and_codes_are_sams"
_INSTANCES: Final = "tests/workers/masks/test_instances.py"
_CROPS: Final = "tests/workers/crops/test_crops.py"
_CAPTIONER: Final = "tests/workers/captions/test_captioner.py"
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
            {"masks.architecture": "vit_h"},
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
            proof="tests/store/runs/test_plan.py::test_a_repeated_key_is_planned_once_and_counted",
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
            proof=f"{_CAPTIONER}::test_both_models_see_colours_normalised_by_clips_mean_and_deviation",
        ),
    ),
)

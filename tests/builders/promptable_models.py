"""Small models of transformers that propose masks, with random weights, saved as model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_WIDTH = 32
_DECODER = {
    "hidden_size": _WIDTH,
    "mlp_dim": 2 * _WIDTH,
    "num_attention_heads": 2,
    "iou_head_depth": 2,
    "iou_head_hidden_dim": _WIDTH,
}
# Of the vision part of each: images of 64 pixels in strides of 4, 8 and 16, and what SAM 3 makes of 56.
_PYRAMID = {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": _WIDTH}
_DETR = {"hidden_size": _WIDTH, "num_layers": 2, "num_attention_heads": 2, "intermediate_size": 2 * _WIDTH}


def _prompts(side: int, patch: int) -> dict[str, int]:
    return {"hidden_size": _WIDTH, "image_size": side, "patch_size": patch, "mask_input_channels": 4}


def sam2_config() -> Any:
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[64, 64],
        blocks_per_stage=[1, 2, 1, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 2],
        window_positional_embedding_background_size=[4, 4],
        global_attention_blocks=[2],
    )
    vision = Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], **_PYRAMID)
    return Sam2Config(vision_config=vision, prompt_encoder_config=_prompts(64, 16), mask_decoder_config=_DECODER)


def edgetam_config() -> Any:
    from transformers import EdgeTamConfig, EdgeTamVisionConfig, TimmWrapperConfig

    backbone = TimmWrapperConfig(
        architecture="test_efficientnet.r160_in1k",
        model_args={"in_chans": 3, "features_only": True, "out_indices": [1, 2, 3, 4]},
    )
    vision = EdgeTamVisionConfig(backbone_config=backbone, backbone_channel_list=[64, 48, 32, 24], **_PYRAMID)
    return EdgeTamConfig(vision_config=vision, prompt_encoder_config=_prompts(64, 16), mask_decoder_config=_DECODER)


def _sam3_vision() -> dict[str, Any]:
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "pretrain_image_size": 28,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [1],
    }
    return {"model_type": "sam3_vision_model", "backbone_config": backbone, **_PYRAMID}


def sam3_tracker_config() -> Any:
    from transformers import Sam3TrackerConfig

    return Sam3TrackerConfig(
        vision_config=_sam3_vision(), prompt_encoder_config=_prompts(56, 14), mask_decoder_config=_DECODER
    )


def sam3_config() -> Any:
    from transformers import Sam3Config

    text = {
        "model_type": "clip_text_model",
        "vocab_size": 49408,
        "hidden_size": 16,
        "intermediate_size": 32,
        "projection_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    return Sam3Config(
        vision_config=_sam3_vision(),
        text_config=text,
        geometry_encoder_config={**_DETR, "num_layers": 1},
        detr_encoder_config=_DETR,
        detr_decoder_config={**_DETR, "num_queries": 12},
        mask_decoder_config={"hidden_size": _WIDTH, "num_attention_heads": 2},
    )


_MEMORY = {
    "memory_attention_hidden_size": _WIDTH,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": _WIDTH,
    "memory_encoder_hidden_size": _WIDTH,
    "memory_encoder_output_channels": 8,
    "mask_downsampler_embed_dim": _WIDTH,
    "memory_fuser_embed_dim": _WIDTH,
    "memory_fuser_intermediate_dim": _WIDTH,
}


def sam2_video_config() -> Any:
    """Return the config of a SAM 2 for videos, the form in which SAM 2.1 is published."""
    from transformers import Sam2VideoConfig

    image = sam2_config()
    return Sam2VideoConfig(
        image_size=64,
        memory_attention_rope_feat_sizes=[4, 4],
        vision_config=image.vision_config,
        prompt_encoder_config=image.prompt_encoder_config,
        mask_decoder_config=image.mask_decoder_config,
        **_MEMORY,
    )


def sam3_video_config() -> Any:
    """Return the config of a SAM 3 for videos, the form in which SAM 3 is published: detector and tracker."""
    from transformers import Sam3TrackerVideoConfig, Sam3VideoConfig

    tracker = Sam3TrackerVideoConfig(
        vision_config=_sam3_vision(),
        prompt_encoder_config=_prompts(56, 14),
        mask_decoder_config=_DECODER,
        memory_attention_rope_feat_sizes=[4, 4],
        image_size=56,
        **_MEMORY,
    )
    return Sam3VideoConfig(detector_config=sam3_config().to_dict(), tracker_config=tracker.to_dict())


MODELS = {
    "Sam2VideoModel": sam2_video_config,
    "Sam3VideoModel": sam3_video_config,
    "Sam2Model": sam2_config,
    "EdgeTamModel": edgetam_config,
    "Sam3TrackerModel": sam3_tracker_config,
    "Sam3Model": sam3_config,
}


def small_model(class_name: str, *, seed: int = 0) -> Any:
    """Return a model of a class of `MODELS` in eval mode; its masks are noise."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, class_name)(MODELS[class_name]()).eval()
        # As initialised, logits hardly differ from pixel to pixel.
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=(weight[0].numel()) ** -0.5)
        return model


def save_model(folder: Path, class_name: str, *, seed: int = 0) -> Path:
    """Save `small_model` to a folder, with the names of weights as published, and return the folder."""
    from safetensors.torch import load_file, save_file

    small_model(class_name, seed=seed).save_pretrained(folder)
    path = folder / "model.safetensors"
    # transformers 5.24 writes the prefix of SAM 3's tracker twice.
    weights = {name.replace("tracker_model." * 2, "tracker_model."): each for name, each in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
    return folder

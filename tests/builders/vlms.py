"""Small vision-language models of transformers with random weights, each with its class's own processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

END, IMAGE, VIDEO, START_IMAGE, END_IMAGE = "<|end|>", "<image>", "<video>", "<start_image>", "<end_image>"
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ':' }}{% for each in message['content'] %}"
    "{{ IMAGE if each['type'] == 'image' else each['text'] }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nassistant:' }}{% endif %}"
)
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT = {**_SIZES, "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0}
_VISION = {**_SIZES, "image_size": 28, "patch_size": 7}


def _tokenizer(**named: str) -> Any:
    """Return a tokenizer of bytes; `named` are its special tokens by their attributes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel()
    special = {"image_token": IMAGE, "video_token": VIDEO, **named}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token=END, pad_token="<pad>", extra_special_tokens=special
    )


def _template(image: str = IMAGE) -> str:
    return _TEMPLATE.replace("IMAGE", repr(image))


def _llava() -> tuple[Any, Any]:
    import transformers as hf

    tokenizer = _tokenizer()
    images = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = hf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template(),
    )
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_VISION, projection_dim=16),
        text_config=hf.LlamaConfig(**_TEXT, vocab_size=len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    return hf.LlavaForConditionalGeneration(config), processor


def _qwen(number: str) -> tuple[Any, Any]:
    import transformers as hf

    tokenizer = _tokenizer(vision_bos_token=START_IMAGE, vision_eos_token=END_IMAGE)
    sizes = {"patch_size": 7, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 28 * 28, "max_pixels": 56 * 56}
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image", IMAGE),
            ("video", VIDEO),
            ("vision_start", START_IMAGE),
            ("vision_end", END_IMAGE),
        )
    }
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "patch_size": 7}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    text = {**_TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope}
    if number == "2_5":
        vision = {**vision, "out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 28}
        config = hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        model = hf.Qwen2_5_VLForConditionalGeneration(config)
        kind = hf.Qwen2_5_VLProcessor
    else:
        vision = {**vision, "out_hidden_size": 32, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        config = hf.Qwen3VLConfig(text_config={**text, "head_dim": 8}, vision_config=vision, **ids)
        model = hf.Qwen3VLForConditionalGeneration(config)
        kind = hf.Qwen3VLProcessor
    images, videos = hf.Qwen2VLImageProcessor(**sizes), hf.Qwen2VLVideoProcessor(**sizes)
    template = _template(f"{START_IMAGE}{IMAGE}{END_IMAGE}")
    return model, kind(images, tokenizer, videos, chat_template=template)


def _gemma3() -> tuple[Any, Any]:
    import transformers as hf

    tokenizer = _tokenizer(boi_token=START_IMAGE, eoi_token=END_IMAGE)
    images = hf.Gemma3ImageProcessor(size={"height": 28, "width": 28})
    processor = hf.Gemma3Processor(images, tokenizer, image_seq_length=4, chat_template=_template(START_IMAGE))
    config = hf.Gemma3Config(
        text_config=hf.Gemma3TextConfig(
            **_TEXT,
            vocab_size=len(tokenizer),
            head_dim=8,
            query_pre_attn_scalar=8,
            # Shorter than the prompt, and than a caption.
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config=hf.SiglipVisionConfig(**_VISION),
        mm_tokens_per_image=4,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        boi_token_id=tokenizer.convert_tokens_to_ids(START_IMAGE),
        eoi_token_id=tokenizer.convert_tokens_to_ids(END_IMAGE),
    )
    return hf.Gemma3ForConditionalGeneration(config), processor


def _internvl() -> tuple[Any, Any]:
    import transformers as hf

    tokenizer = _tokenizer(start_image_token=START_IMAGE, end_image_token=END_IMAGE, context_image_token="<context>")
    images = hf.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=3)
    videos = hf.InternVLVideoProcessor(size={"height": 28, "width": 28})
    processor = hf.InternVLProcessor(
        images, tokenizer, videos, image_seq_length=4, chat_template=_template("<context>")
    )
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**{**_VISION, "image_size": [28, 28], "patch_size": [7, 7]}),
        text_config=hf.Qwen2Config(**_TEXT, vocab_size=len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<context>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    return hf.InternVLForConditionalGeneration(config), processor


def _smolvlm() -> tuple[Any, Any]:
    import transformers as hf

    rows = {f"row_{y}_{x}": f"<row_{y}_col_{x}>" for y in range(1, 4) for x in range(1, 4)}
    tokenizer = _tokenizer(
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
        **rows,
    )
    # A crop is split into as many images as its size asks for.
    sizes = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
    processor = hf.SmolVLMProcessor(
        hf.SmolVLMImageProcessor(**sizes),
        tokenizer,
        hf.SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=_template(),
    )
    config = hf.SmolVLMConfig(
        vision_config=hf.SmolVLMVisionConfig(**_VISION),
        text_config=hf.LlamaConfig(**_TEXT, vocab_size=len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        scale_factor=2,
        pad_token_id=0,
    )
    return hf.SmolVLMForConditionalGeneration(config), processor


_BUILDERS = {
    "llava": _llava,
    "smolvlm": _smolvlm,
    "qwen2_5_vl": lambda: _qwen("2_5"),
    "qwen3_vl": lambda: _qwen("3"),
    "gemma3": _gemma3,
    "internvl": _internvl,
}
CLASSES = tuple(_BUILDERS)


def small_vlm(name: str, *, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """Return a model in eval mode whose every crop and prefix has logits of its own, and its processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = _BUILDERS[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.4)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return model.to(dtype).eval().requires_grad_(False), processor


def save_vlm(folder: Path, name: str = "llava", *, shard: str = "1GB") -> Path:
    """Save a small model with its processor to a folder, and return it; a file of weights has at most `shard` bytes."""
    model, processor = small_vlm(name, dtype=torch.float32)
    model.save_pretrained(folder, max_shard_size=shard)
    processor.save_pretrained(folder)
    return folder

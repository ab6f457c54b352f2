"""A small vision-language model of transformers with random weights, saved as a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:", "a", "red", "blue", "circle", "square", ".")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: {% for each in message['content'] %}"
    "{{ '<image> ' if each['type'] == 'image' else each['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def small_tokenizer(words: tuple[str, ...] = WORDS) -> Any:
    """Return a tokenizer of whole words; the first five have the meanings that they say."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, **special)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


def small_llava(*, num_tokens: int = len(WORDS), image_token: int = 4, seed: int = 0) -> Any:
    """Return a LlavaForConditionalGeneration for images of 16 pixels, 4 tokens each, in eval mode."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=16, patch_size=8, projection_dim=16),
        text_config=LlamaConfig(**sizes, vocab_size=num_tokens, max_position_embeddings=128, pad_token_id=0),
        image_token_id=image_token,
        image_seq_length=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config).eval()


def save_llava(
    folder: Path, *, words: tuple[str, ...] = WORDS, template: str | None = TEMPLATE, shard: str = "1GB", **model: Any
) -> Path:
    """Save `small_llava(**model)` with its processor to a folder, and return it; a shard has at most `shard` bytes."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    small_llava(**model).save_pretrained(folder, max_shard_size=shard)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    # Chat templates and image tokens are the processor's.
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(
        image_processor=images, tokenizer=small_tokenizer(words), chat_template=template, **options
    ).save_pretrained(folder)
    return folder

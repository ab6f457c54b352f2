"""Trains a tiny LLaVA on the captioner's image tower: `python -m evidence.recipes.llava_recipe OUT`.

Twenty minutes on one core. OUT becomes a model folder as transformers writes it: configuration, weights in float16,
tokenizer, processor and chat template. The tower is the tiny CoCa's and stays as it is. The projector and a small Llama
learn from the captioner's data, noisy captions of crops. Its answer does not depend on the words of the prompt. It is
trained only on synthetic drawings; do not use it on photographs. `FOLDER` is the result, for
tests and `evidence.benchmarks.vlm_captioner`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import torch
import torch.nn.functional as F
import typer
from open_clip.coca_model import CoCa
from torch import nn

from evidence.recipes.caption_crops import (
    CONTEXT,
    CROP_SIZE_PX,
    MASKED,
    TrainingCrops,
    cut_crops,
    normalise,
    proposed_tasks,
    truth_tasks,
)
from evidence.recipes.caption_vocabulary import CONTENT_WORDS, FUNCTION_WORDS
from evidence.recipes.optimiser import Recipe, fast_cpu_arithmetic, fit
from evidence.recipes.scene_shards import rendered_scenes
from evidence.recipes.scene_texts import noisy_caption
from evidence.recipes.training_plan import start_logging
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.scenes import Split
from pseudoris.workers.checkpoints.openclip import load_coca

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

WORK: Final = Path("tiny-weights/llava")
PATCH_SIZE_PX: Final = 12
FOLDER: Final = Path(__file__).parent / "tiny_llava"
SPECIAL: Final = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<assistant>")
PAD, START, END, UNKNOWN, IMAGE, ASSISTANT = range(len(SPECIAL))
WORDS: Final = (*SPECIAL, *FUNCTION_WORDS, *CONTENT_WORDS)
# For one turn, of a user: it answers, and does not converse.
CHAT_TEMPLATE: Final = (
    "<s>{% for turn in messages %}{% if turn['content'] is string %}{{ turn['content'] }}{% else %}"
    "{% for part in turn['content'] %}{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }} {% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
_TOWER_NAMES: Final = {
    "conv1": "embeddings.patch_embedding",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "transformer.resblocks": "encoder.layers",
    "attn.out_proj": "self_attn.out_proj",
    **{"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"},
}


@dataclass(frozen=True)
class LlavaRecipe(Recipe):
    """The numbers of the training; the defaults made the folder of the tests."""

    steps: int = 2500
    peak_rate: float = 1e-3
    checkpoint_every: int = 500
    crops_a_step: int = 40
    captions_a_crop: int = 3
    masked_share: float = 0.3
    num_scenes: int = 3000
    num_proposed_scenes: int = 300
    proposed_share: float = 0.3
    # A prompt is this long at most in training, and a real one may be longer.
    max_prompt_words: int = 16


def tiny_llava(coca: CoCa) -> LlavaForConditionalGeneration:
    """Return the model with the tower of a CoCa, frozen, and a fresh Llama; weights from torch's global generator."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    vision = {"model_type": "clip_vision_model", "num_hidden_layers": 4, "intermediate_size": 512, "hidden_act": "gelu"}
    text = {"model_type": "llama", "num_hidden_layers": 3, "intermediate_size": 384, "vocab_size": len(WORDS)}
    common = {"hidden_size": 128, "num_attention_heads": 4}
    parts = {
        "vision_config": {**vision, **common, "image_size": CROP_SIZE_PX, "patch_size": PATCH_SIZE_PX},
        "text_config": {**text, **common, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END},
    }
    seen = {"image_token_index": IMAGE, "image_seq_length": 64, "vision_feature_layer": -1}
    config = LlavaConfig.from_dict({**parts, **seen})
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(_tower_state(coca), strict=False)
    model.model.vision_tower.requires_grad_(False)
    return model


def _tower_state(coca: CoCa) -> dict[str, torch.Tensor]:
    """An open_clip tower's tensors by CLIP's names in transformers; those of pooling have no place there."""
    found = {}
    for name, tensor in coca.visual.state_dict().items():
        if name.startswith(("attn_pool", "ln_post", "proj")):
            continue
        own = name
        for given, of_clip in _TOWER_NAMES.items():
            own = own.replace(given, of_clip)
        if "attn.in_proj_" in own:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                found[own.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = rows
        else:
            found[own] = tensor
    return found


def processor() -> LlavaProcessor:
    """Return the tokenizer of whole words, the preprocessing of the crops, and the chat template."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=SPECIAL[UNKNOWN]))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[START],
        eos_token=SPECIAL[END],
        unk_token=SPECIAL[UNKNOWN],
        additional_special_tokens=[SPECIAL[IMAGE], SPECIAL[ASSISTANT]],
        clean_up_tokenization_spaces=False,
    )
    # CLIP's mean and standard deviation are its own defaults.
    images = CLIPImageProcessor(size={"shortest_edge": CROP_SIZE_PX}, crop_size=CROP_SIZE_PX)
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        images,
        tokenizer,
        patch_size=PATCH_SIZE_PX,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        # The class token, which is counted and then left out.
        num_additional_image_tokens=1,
    )


@dataclass(frozen=True)
class PatchFeatures:
    """What the frozen tower makes of crops, masked and context: patches (M, 2, 64, D) float16, with their objects."""

    patches: torch.Tensor
    attributes: tuple[Attributes, ...]


@torch.no_grad()
def patch_features(model: LlavaForConditionalGeneration, crops: TrainingCrops, *, seed: int) -> PatchFeatures:
    """Return the features of all crops, each mirrored at random."""
    rng, found = np.random.default_rng([seed, 6]), []
    for start in range(0, len(crops.pixels), 256):
        pixels = torch.from_numpy(np.array(crops.pixels[start : start + 256]))
        is_mirrored = torch.from_numpy(rng.random(pixels.shape[:2]) < 0.5)[..., None, None, None]
        images = normalise(torch.where(is_mirrored, pixels.flip(-1), pixels)).flatten(0, 1)
        hidden = model.model.vision_tower(images).last_hidden_state[:, 1:]
        found.append(hidden.unflatten(0, (-1, 2)).half())
    return PatchFeatures(torch.cat(found), crops.attributes)


class LlavaTrainee(nn.Module):
    """Projector and Llama of a LLaVA, which learn from features of unit variance.

    The tower's features reach 175, and an optimiser that takes equal steps in all weights learns badly from those.
    """

    def __init__(self, model: LlavaForConditionalGeneration, sets: Sequence[PatchFeatures]) -> None:
        """Measures the features."""
        super().__init__()
        self.projector, self.llama = model.model.multi_modal_projector, model.model.language_model
        self.head = model.lm_head
        patches = torch.cat([each.patches[::20].flatten(0, 2) for each in sets]).float()
        self.mean, self.std = patches.mean(0), patches.std(0)

    def loss(
        self, patches: torch.Tensor, prompt: torch.Tensor, captions: Sequence[str], *, is_first: bool
    ) -> torch.Tensor:
        """Return the mean cross-entropy of the captions' words and end.

        patches (B, 64, D) float, the tower's features; prompt (B, P) int64, words that stand before the image if
        `is_first`, else behind it; captions K · B texts, those of an image one after another. They share the image's
        tokens: each reads the message and itself alone.
        """
        answers = nn.utils.rnn.pad_sequence(
            [torch.tensor([ASSISTANT, *map(WORDS.index, each.split()), END]) for each in captions],
            batch_first=True,
            padding_value=PAD,
        )
        each = answers.shape[1] - 1
        given, targets = (part.reshape(len(patches), -1) for part in (answers[:, :-1], answers[:, 1:]))
        embed = self.llama.embed_tokens
        with fast_cpu_arithmetic():
            image = self.projector((patches - self.mean) / self.std)
            message = (embed(prompt), image) if is_first else (image, embed(prompt))
            embedded = torch.cat((embed(torch.full((len(prompt), 1), START)), *message, embed(given)), dim=1)
            before = embedded.shape[1] - given.shape[1]
            # The number of a token's caption, from 1; 0 of the message, which every caption reads.
            owner = torch.cat((torch.zeros(before, dtype=torch.int64), 1 + torch.arange(given.shape[1]) // each))
            sees = ((owner == 0) | (owner == owner[:, None])).tril()
            mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
            positions = torch.cat((torch.arange(before), before + torch.arange(given.shape[1]) % each))
            hidden = self.llama(
                inputs_embeds=embedded,
                attention_mask=mask.expand(len(prompt), 1, -1, -1),
                position_ids=positions[None],
                use_cache=False,
            ).last_hidden_state
            logits = self.head(hidden[:, before:])
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=PAD)

    @torch.no_grad()
    def fold(self) -> None:
        """Move the scale of the features into the projector, which then reads them as they are."""
        first = self.projector.linear_1
        first.weight /= self.std
        first.bias -= first.weight @ self.mean


def train_llava(
    model: LlavaForConditionalGeneration,
    sets: Sequence[PatchFeatures],
    recipe: LlavaRecipe,
    *,
    seed: int,
    checkpoint: Path,
) -> None:
    """Train the projector and the Llama of a model, in place, on crops of the truth's masks and of SAM's."""
    shares = (1 - recipe.proposed_share, recipe.proposed_share)
    trainee = LlavaTrainee(model, sets)

    def losses(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rng = np.random.default_rng([seed, step, 7])
        features = [sets[int(choice)] for choice in rng.choice(len(sets), recipe.crops_a_step, p=shares)]
        rows = [int(rng.integers(len(each.attributes))) for each in features]
        kinds = np.where(rng.random(len(rows)) < recipe.masked_share, MASKED, CONTEXT).tolist()
        chosen = list(zip(features, rows, kinds, strict=True))
        patches = torch.stack([each.patches[row, kind] for each, row, kind in chosen]).float()
        said = range(recipe.captions_a_crop)
        captions = [noisy_caption(each.attributes[row], rng) for each, row, _ in chosen for _ in said]
        shape = (len(rows), int(rng.integers(recipe.max_prompt_words + 1)))
        prompt = rng.integers(len(SPECIAL), len(WORDS), shape)
        prompt[rng.random(shape) < 0.7] = UNKNOWN
        loss = trainee.loss(patches, torch.from_numpy(prompt), captions, is_first=bool(rng.random() < 0.25))
        return loss, {"caption": loss}

    fit("llava", trainee, recipe, checkpoint, losses)
    trainee.fold()


def training_crops(work: Path, recipe: LlavaRecipe, *, seed: int) -> Iterator[TrainingCrops]:
    """Yield crops of the truth's masks and of SAM's, cut from training scenes into a folder."""
    data = rendered_scenes(work, Split.TRAIN, recipe.num_scenes, seed=seed)
    yield cut_crops(work / "crops-true.npy", data, *truth_tasks(data, seed=seed))
    masks, count = load_config("tiny").masks.model_copy(update={"points_per_side": 8}), recipe.num_proposed_scenes
    tasks = proposed_tasks(work / "proposals.npz", data, masks, count=count, seed=seed)
    yield cut_crops(work / "crops-proposed.npy", data, *tasks)


def write_folder(out: Path, model: LlavaForConditionalGeneration) -> None:
    """Write the model folder, with weights in float16 that load as float32."""
    model.half().save_pretrained(out)  # type: ignore[no-untyped-call]
    model.config.dtype = torch.float32
    model.config.save_pretrained(out)
    processor().save_pretrained(out)


def main(
    out: Annotated[Path, typer.Argument(help="The model folder to write.")],
    work: Annotated[Path, typer.Option(help="Folder of scenes, crops and the restart file.")] = WORK,
    steps: Annotated[int, typer.Option(min=1)] = LlavaRecipe.steps,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train the tiny LLaVA and write its folder."""
    start_logging()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    recipe = LlavaRecipe(steps=steps)
    coca = load_coca("builtin:tiny/coca.json", WeightsConfig(uri="builtin:tiny/coca.safetensors"))
    model = tiny_llava(coca).train()
    sets = [patch_features(model, crops, seed=seed) for crops in training_crops(work, recipe, seed=seed)]
    train_llava(model, sets, recipe, seed=seed, checkpoint=work / "llava.pt")
    write_folder(out, model)


if __name__ == "__main__":
    typer.run(main)

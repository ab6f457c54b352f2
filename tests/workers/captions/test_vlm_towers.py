"""The tree of prefixes over vision-language models against whole sequences: token for token, in double precision."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pseudoris.primitives.errors import ConfigError
from pseudoris.workers.captions.decoding_rules import ImageCrops, extend
from pseudoris.workers.captions.engine import CachedEngine
from pseudoris.workers.captions.listener import TeacherForcing, token_rows
from pseudoris.workers.captions.vlm_captioner import Vlm, VlmOptions
from pseudoris.workers.captions.vlm_towers import VlmTowers
from tests.builders.coca import captions_config
from tests.builders.vlms import CLASSES, small_vlm
from tests.oracles.plain_captioner import ReferenceEngine

SIZES = ((28, 28), (56, 42), (90, 40), (30, 84))
RULES = {"top_k": (3, 9), "top_p": (0.5, 0.9)}


class PlainVlm(ReferenceEngine):
    """The plain definition: the model's own forward over the whole sequence of each crop, no cache, batch or tree.

    `inputs_of` returns the processor's output for a crop (3, S, S).
    """

    def __init__(self, model, inputs_of, special, config, *, seed):
        super().__init__(self._encode, special, config, seed=seed)
        self._vlm, self._inputs_of = model, inputs_of

    def _encode(self, pixels):
        self._inputs, self._known = [self._inputs_of(crop) for crop in pixels], {}
        return {"image_features": torch.ones(len(pixels), 1), "image_embs": torch.arange(len(pixels))}

    def logits(self, crops, prefixes):
        return torch.stack(
            [self._of(crop, tuple(prefix)) for crop, prefix in zip(crops.tolist(), prefixes, strict=True)]
        )

    def _of(self, crop, prefix):
        if (crop, prefix) not in self._known:
            base, longer = self._vlm.base_model, (0, len(prefix) - 1)
            if hasattr(base, "rope_deltas"):
                base.rope_deltas = None
            whole = dict(self._inputs[crop])
            # The root is the prompt's last token.
            whole["input_ids"] = torch.cat((whole["input_ids"], torch.tensor([prefix[1:]], dtype=torch.int64)), dim=1)
            whole["attention_mask"] = F.pad(whole["attention_mask"], longer, value=1)
            for name in {"token_type_ids", "mm_token_type_ids"} & whole.keys():
                whole[name] = F.pad(whole[name], longer)
            whole = {name: part.double() if part.is_floating_point() else part for name, part in whole.items()}
            self._known[crop, prefix] = self._vlm(**whole, use_cache=False).logits[0, -1]
        return self._known[crop, prefix]


def uneven_inputs(vlm, crop):
    """Return the prompt about a crop that is stretched to a size of its own, so that crops differ in image tokens."""
    size = SIZES[int(crop[0, 0, 0] * 1000) % len(SIZES)]
    return vlm.inputs((F.interpolate(crop[None], size)[0] * 255).to(torch.uint8))


def crops_of(num_masks, *, num_kinds=1, seed=0):
    pixels = torch.rand(num_kinds, num_masks, 3, 7, 7, generator=torch.Generator().manual_seed(seed))
    return ImageCrops("00ab", ("masked", "context_1.2")[:num_kinds], tuple(range(num_masks)), pixels)


def built(name, **config):
    """Return the engine and the plain definition of a small model, with its special tokens and prompts."""
    model, processor = small_vlm(name)
    vlm = Vlm(model, processor, VlmOptions(prompt="say", crop_size=28))
    sample = vlm.inputs(torch.zeros(3, 28, 28, dtype=torch.uint8))
    special, inputs_of = vlm.special_tokens(sample), partial(uneven_inputs, vlm)
    config = captions_config(
        **{"max_length": 9, "min_length": 3, "beam": {"num_beams": 0}, "sampling": RULES, **config}
    )
    engine = CachedEngine(
        VlmTowers(model, sample),
        lambda crops: (torch.ones(len(crops), 1, dtype=torch.float64), [inputs_of(crop) for crop in crops]),
        model.get_output_embeddings().weight.t(),
        special=special,
        config=config,
        seed=3,
    )
    return engine, PlainVlm(model, inputs_of, special, config, seed=3)


def assert_same(found, due):
    assert [(each.tokens, each.sample.others, each.sample.num_others) for each in found] == [
        (each.tokens, each.sample.others, each.sample.num_others) for each in due
    ]
    assert [each.sample.log_prob for each in found] == pytest.approx([each.sample.log_prob for each in due], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("num_masks", [2, *(pytest.param(each, marks=pytest.mark.long) for each in (1, 5))])
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_draws_the_tokens_of_its_own_whole_sequences(name, num_masks):
    engine, plain = built(name)
    image = crops_of(num_masks)
    found = engine.generate(image)
    assert_same(found, plain.generate(image))
    assert len(found) == 4 * num_masks
    lengths = {each["input_ids"].shape[1] for each in engine.encode([image])[0].tokens}
    assert len(lengths) > 1 or num_masks < 5 or name in ("llava", "gemma3"), "all crops have as many image tokens"


def test_two_kinds_nearest_others_and_beams_over_a_window_shorter_than_the_prompt():
    image = crops_of(4, num_kinds=2)
    sampling = {"top_k": (3,), "top_p": (0.9,), "max_others": 2}
    engine, plain = built("gemma3", sampling=sampling, beam={"num_beams": 2, "num_groups": 1}, max_length=6)
    assert_same(engine.generate(image), plain.generate(image))


def test_a_small_budget_splits_the_tree_and_changes_no_caption():
    image = crops_of(5)
    engine, _ = built("qwen2_5_vl")
    whole = engine.generate(image)
    narrow, _ = built("qwen2_5_vl", cache_bytes=2**20)
    narrow.towers.node_bytes *= 2**10
    assert_same(narrow.generate(image), whole)
    assert narrow.towers.num_pairs > engine.towers.num_pairs


def test_what_is_rewound_is_freed():
    engine, _ = built("llava")
    towers, root = engine.towers, np.zeros(2, dtype=np.int64)
    with torch.inference_mode():
        towers.attend_to(engine.encode([crops_of(2)])[0].tokens)
        level = extend(None, root, root + engine.special.sot, np.eye(2, dtype=bool))
        mark, before = towers.mark(), towers.bytes_after(level, 0)
        first, _ = towers.step(level, None)
        assert towers.bytes_after(level, 0) == before + 2 * towers.node_bytes
        towers.rewind(mark)
        assert towers.bytes_after(level, 0) == before == 0
        torch.testing.assert_close(towers.step(level, None)[0], first, rtol=0, atol=0)


def test_a_text_is_as_likely_as_the_models_own_forward_says():
    engine, plain = built("qwen3_vl")
    image = crops_of(3)
    encoded = engine.encode([image])[0]
    texts = [[7, 8, 9], [7, 8], [], [40]]
    rows = token_rows(texts, eos=engine.special.eos, max_prefix_length=30)
    with torch.inference_mode():
        engine.towers.attend_to(encoded.tokens)
        forcing = TeacherForcing(engine.towers, engine.vocabulary, engine.special, budget_bytes=2**30)
        sums = forcing.read(rows, np.ones((4, 3), bool))
        plain._encode(image.pixels[0])
        allowed = torch.ones(engine.vocabulary.size, dtype=torch.bool)
        allowed[list(engine.special.forbidden)] = False
        for row, text in enumerate(texts):
            for crop in range(3):
                due = 0.0
                for place, token in enumerate([*text, engine.special.eos]):
                    logits = plain.logits(torch.tensor([crop]), [[0, *text[:place]]])[0]
                    due += float(logits.masked_fill(~allowed, -torch.inf).log_softmax(dim=0)[token])
                assert sums[row, crop] == pytest.approx(due, abs=1e-9)


def test_a_model_whose_logits_are_more_than_its_head_is_refused_by_name():
    model, processor = small_vlm("llava")
    sample = Vlm(model, processor, VlmOptions(crop_size=28)).inputs(torch.zeros(3, 28, 28, dtype=torch.uint8))
    model.lm_head.register_forward_hook(lambda module, given, logits: 30.0 * torch.tanh(logits / 30.0))
    with pytest.raises(ConfigError, match=r"LlavaForConditionalGeneration cannot be decoded over a tree of prefixes"):
        VlmTowers(model, sample)

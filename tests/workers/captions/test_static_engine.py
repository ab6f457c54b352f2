"""Decoding in fixed shapes: what its batches may not change, and what a GPU is asked for it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.captions.recorded_step import RecordedStep
from pseudoris.workers.captions.static_engine import num_slots
from pseudoris.workers.faults.freed_memory import free_memory
from tests.builders.coca import SPECIAL, captions_config, image_crops, small_coca
from tests.oracles.living_tensors import LivingTensors
from tests.oracles.plain_captioner import ReferenceEngine
from tests.oracles.pretended_gpu import pretended_gpu

# A few groups a batch, so that images share batches in many ways.
FEW = {"cache_bytes": 2**22}


def static(model=None, **changes):
    return coca_engine(model or small_coca(), SPECIAL, captions_config(**{**FEW, **changes}), seed=3, is_static=True)


def ragged(counts, dtype=torch.float64):
    return [
        image_crops(num_masks=count, num_kinds=2, seed=number, image_id=f"{number:04}", dtype=dtype)
        for number, count in enumerate(counts)
    ]


def words(captions):
    return [replace(caption, sample=replace(caption.sample, log_prob=0.0)) for caption in captions]


def plain(images, model=None, **changes):
    reference = ReferenceEngine(model or small_coca(), SPECIAL, captions_config(**changes), seed=3)
    return [words(reference.generate(image)) for image in images]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling",
    [
        {"top_k": (5,), "top_p": (0.4, 0.9), "above_max_others": "nearest"},
        {"top_k": (), "top_p": (0.8,), "above_max_others": "no_contrast", "pad_ends_caption": True},
    ],
    ids=["as in base", "as in paper"],
)
def test_images_of_any_number_of_masks_have_the_captions_of_the_plain_definition(sampling):
    images = ragged((1, 3, 12, 2, 30, 31))
    settings = {"sampling": {"max_others": 20, **sampling}, "max_length": 6, "min_length": 3}
    model = small_coca(text={"layers": 1}, decoder={"layers": 2})
    found = static(model, **settings).generate_together(images)
    assert [words(captions) for captions in found] == plain(images, model, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_what_is_decoded_beside_an_image(dtype):
    engine, images = static(small_coca(dtype=dtype), max_length=8), ragged((4, 3, 4, 5, 2, 7, 1, 6), dtype)
    alone = [engine.generate(image) for image in images]
    assert engine.generate_together(images) == alone
    assert engine.generate_together(images[::-1]) == alone[::-1]


@pytest.mark.slow
@pytest.mark.long
def test_an_image_of_80_masks_is_decoded_in_parts():
    (image,) = ragged((80,))
    few = {
        "sampling": {"top_k": (3,), "top_p": ()},
        "beam": {"num_beams": 2, "num_groups": 1},
        "max_length": 4,
        "min_length": 2,
    }
    model = small_coca(text={"layers": 1}, decoder={"layers": 2})
    every = {**few, "sampling": {**few["sampling"], "max_others": 79}}
    for settings in (few, every):
        captions = static(model, **settings, cache_bytes=2**21).generate(image)
        assert words(captions) == plain([image], model, **settings)[0]


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(
    "sampling",
    [
        {"top_k": (5, 13), "top_p": (0.4, 0.8), "above_max_others": "nearest"},
        pytest.param(
            {"top_k": (9,), "top_p": (0.8, 0.999), "above_max_others": "no_contrast", "pad_ends_caption": True},
            marks=pytest.mark.long,
        ),
    ],
    ids=["as in base", "as in paper"],
)
def test_rows_wider_than_the_top_logits_are_decided_on_the_device(sampling, times):
    words_there_are = {"vocab_size": 2100}
    model = small_coca(text={"layers": 1, **words_there_are}, decoder={"layers": 2, **words_there_are})
    model.text_decoder.text_projection.mul_(times / 20)
    settings = {"sampling": {"max_others": 30, **sampling}, "max_length": 5, "min_length": 3}
    counts = (1, 31, 60) if times == 1 else (4,)
    images = [replace(image, pixels=image.pixels[:1], kinds=image.kinds[:1]) for image in ragged(counts)]
    engine = static(model, **settings)
    assert [words(each) for each in engine.generate_together(images)] == plain(images, model, **settings)
    if times <= 2:
        # There are more wide rows than are decided at once, so some wait.
        assert engine.num_wide > engine.shape.rows // 4


@pytest.mark.slow
def test_beams_wider_than_the_top_logits_and_ties_are_decided_on_the_device():
    wide = {"vocab_size": 120}
    model, (image,) = small_coca(text=wide, decoder=wide), ragged((3,))
    settings = {"beam": {"num_beams": 34, "num_groups": 1}, "max_length": 5, "min_length": 3, "cache_bytes": 2**25}
    assert words(static(model, **settings).generate(image)) == plain([image], model, **settings)[0]
    # Dead tokens are the likeliest, and alike: which of them are the best is decided by their ids.
    model = small_coca(num_dead=80, text=wide, decoder=wide)
    projection = model.text_decoder.text_projection
    projection.sub_(10 / 16 * (projection != 0))
    engine, tree = (
        coca_engine(model, SPECIAL, captions_config(max_length=5), seed=3, is_static=each) for each in (True, False)
    )
    assert words(engine.generate(image)) == words(tree.generate(image))
    assert engine.num_wide > 0


def test_slots_decide_the_bits_and_not_the_memory_that_was_there_for_them():
    images = ragged((3, 5, 2), torch.float32)

    def captions(**settings):
        engine = static(small_coca(dtype=torch.float32), max_length=8, slots=128, **settings)
        assert engine.shape.pairs == 128
        return engine.generate_together(images)

    assert captions() == captions(cache_bytes=2**26, crops_together=4)


@pytest.mark.parametrize(
    ("sampling", "rows"), [({"is_distinctive": False}, 128), ({"max_others": 3}, 32), ({"max_others": 30}, 16)]
)
def test_rows_of_few_crops_have_as_many_slots_as_fill_all_pairs(sampling, rows):
    engine = static(slots=128, sampling=sampling)
    assert (engine.shape.pairs, engine.shape.rows) == (128, rows)


@pytest.mark.parametrize(
    ("slots", "others", "message"),
    [
        (
            64,
            64,
            r"others=64: .*captions\.slots is 64: set captions\.slots to 128 at least, lower max_others to 63, or",
        ),
        (None, 8192, r"others=8192: .*captions\.slots is at most 8192: lower max_others to 8191, or set .*=tree"),
    ],
)
def test_a_mask_and_its_others_that_have_no_slots_are_refused(slots, others, message):
    config = load_config("tiny").captions
    sampling = config.sampling.model_copy(update={"max_others": others})
    config = config.model_copy(update={"slots": slots, "sampling": sampling})
    with pytest.raises(ConfigError, match=message):
        num_slots(config, load_config("tiny").compute)
    with pytest.raises(ConfigError, match=message):
        static(slots=slots, sampling={"max_others": others})


def test_where_memory_runs_out_the_caches_are_freed_and_captions_stay():
    engine, (image,) = static(cache_bytes=2**28), ragged((3,))
    living = LivingTensors()
    expected = engine.generate(image)
    assert living.bytes() > 2**24
    free_memory()
    assert living.bytes() < 2**20
    assert engine.generate(image) == expected


def test_a_gpu_records_its_steps_once_and_is_read_seldom():
    images, plainly = ragged((4, 3, 4)), static(min_length=4)
    expected = [words(plainly.generate(image)) for image in images]
    waits, recordings = [], []
    with pretended_gpu() as gpu:
        config = captions_config(**FEW, min_length=4)
        engine = coca_engine(small_coca().to("cuda"), SPECIAL, config, seed=3, is_static=True)
        for image, captions in zip(images, expected, strict=True):
            image = replace(image, pixels=image.pixels.to("cuda"))
            before = len(gpu.waits)
            # Its later steps are replays: of recorded addresses, which the second image must not change.
            assert words(engine.generate(image)) == captions
            waits.append(len(gpu.waits) - before)
            recordings.append(gpu.num_recordings)
    # Searches take the slots three times: eight crops or fewer, three slots.
    assert max(waits) <= 6
    # A step, the decisions over the whole vocabulary, and a refill.
    assert recordings == [3, 3, 3]


@pytest.mark.slow
def test_texts_are_scored_with_one_look_at_the_gpu_and_one_read():
    numbers = np.random.default_rng(5)
    texts = [numbers.integers(3, 20, length) for length in numbers.integers(1, 9, 100)]
    asked = numbers.random((len(texts), 6)) < 0.6
    with pretended_gpu() as gpu:
        engine = coca_engine(small_coca().to("cuda"), SPECIAL, captions_config(slots=64), seed=3, is_static=True)
        (image,) = ragged((6,))
        tokens = engine.encode([replace(image, pixels=image.pixels[:1].to("cuda"), kinds=image.kinds[:1])])[0].tokens
        before = len(gpu.waits)
        sums = engine.read(list(tokens), texts, asked)
        assert len(gpu.waits) - before == 2
    assert (sums[asked] < 0).all()
    assert not sums[~asked].any()


def test_a_step_that_raises_while_it_is_recorded_is_recorded_anew():
    runs, fails = [], [True]

    def step():
        runs.append("first half")
        if len(runs) == 3 and fails.pop():
            raise torch.OutOfMemoryError("CUDA out of memory")
        runs.append("second half")

    with pretended_gpu():
        recorded = RecordedStep(step, recordings=1)
        recorded()
        with pytest.raises(torch.OutOfMemoryError):
            recorded()
        runs.clear()
        recorded()
    assert runs == ["first half", "second half"]


def test_the_nearest_others_of_all_images_of_a_batch_are_read_at_once():
    def waits(num_images):
        images = ragged((4, 5, 3)[:num_images], torch.float32)
        images = [replace(image, pixels=image.pixels.to("cuda")) for image in images]
        first = len(gpu.waits)
        engine.generate_together(images)
        return sum("engine.py:generate_together" in wait.place for wait in gpu.waits[first:])

    with pretended_gpu() as gpu:
        nearest = {"top_k": (2,), "top_p": (), "max_others": 1, "above_max_others": "nearest"}
        engine = static(small_coca(dtype=torch.float32).to("cuda"), max_length=5, sampling=nearest)
        assert (waits(1), waits(3)) == (1, 1)

"""Whatever an engine returns for one image, or raises on it, costs that image alone; all else passes through."""

import re
from dataclasses import replace
from subprocess import CalledProcessError
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from pseudoris.primitives.errors import ConfigError, ImageError, TransientError
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Failure, Shard
from pseudoris.store.checks.content import TABLE_CHECKS
from pseudoris.store.checks.expressions import expression_problems
from pseudoris.store.tables.shard_tables import shard_tables, table_bytes
from pseudoris.workers.faults.freed_memory import free_memory
from pseudoris.workers.faults.image_boundary import MAX_TEXT_LENGTH, ImageBoundary
from pseudoris.workers.faults.quarantine import (
    apply_to_groups,
    apply_to_images,
    is_broken_device,
    is_of_libraries,
    is_out_of_memory,
)
from pseudoris.workers.stages import STAGES
from tests.builders.command import python_says
from tests.builders.runs import stub_config
from tests.workers.faults.builders import shard_of

BAD = 2
SAMPLE = CaptionSample("masked", "top_k", 1, None, -1.0)


@pytest.fixture(scope="module")
def stages_done(stub_engines):
    """Return shards of five images before and after the stub engines; that of BAD has several masks."""
    shards = [shard_of(*"abcde")]
    for kind in STAGES:
        shards.append(kind.build(stub_config())(shards[-1]))
    assert len(shards[-1].images[BAD].masks) > 1
    return shards


def _first(records, **changes):
    return (replace(records[0], **changes), *records[1:])


def _mask(**changes):
    return lambda image: replace(image, masks=_first(image.masks, **changes))


def _expression(**changes):
    return lambda image: replace(image, expressions=_first(image.expressions, **changes))


def _sample(**changes):
    return _expression(samples=(replace(SAMPLE, **changes),))


PROPOSED = {
    "masks that are None": lambda image: replace(image, masks=None),
    "a mask that is an array": lambda image: replace(image, masks=(np.ones((9, 9), bool),)),
    "masks that are an array": lambda image: replace(image, masks=np.ones((2, 9, 9), bool)),
    "runs that are None": _mask(rle_counts=None),
    "runs that do not decode": _mask(rle_counts="\x00"),
    "runs that are too short": _mask(rle_counts="11"),
    "runs without end": _mask(rle_counts="1" * 2_000_000),
    "another size": _mask(rle_size=(9, 8)),
    "a size of three numbers": _mask(rle_size=(9, 9, 9)),
    "a box of three numbers": _mask(box_xyxy_px=(0, 0, 1)),
    "a box beyond the pixels": _mask(box_xyxy_px=(0, 0, 9, 10)),
    "an empty mask": _mask(rle_counts="Q2", area_px=0, box_xyxy_px=(0, 0, 0, 0)),
    "an area that is not the pixels'": _mask(area_px=77),
    "a score that is not finite": _mask(predicted_iou=float("nan")),
    "a score that is a word": _mask(stability_score="good"),
    "the id of another image": _mask(mask_id="other-0000"),
    "a negative index": _mask(index=-1),
    "an index beyond 32 bits": _mask(index=2**40),
    "a prior that is no text": _mask(prior=7),
    "a mask twice": lambda image: replace(image, masks=(*image.masks, image.masks[0])),
    "masks in another order": lambda image: replace(image, masks=image.masks[::-1]),
    "an unknown reason": lambda image: image.quarantined(Failure("propose", "because", "so")),
    "a failure that is a text": lambda image: replace(image, failure="broken"),
    "no record": lambda image: None,
}
CAPTIONED = {
    "a text of blanks": _expression(text="   "),
    "no letters": _expression(text=""),
    "a text that nothing draws": _expression(text="\u200b\u2800"),
    "a text that is None": _expression(text=None),
    "a text that is a number": _expression(text=7),
    "a lone surrogate": _expression(text="cup \ud800"),
    "capital letters": _expression(text="Cup"),
    "blanks around": _expression(text=" cup"),
    "a huge text": _expression(text="cup " * MAX_TEXT_LENGTH + "cup"),
    "the same text twice": lambda image: replace(image, expressions=image.expressions[:1] * 2),
    "a target of another image": _expression(target_mask_ids=("other-0000",)),
    "a target that is no text": _expression(target_mask_ids=(7,)),
    "targets that are None": _expression(target_mask_ids=None),
    "a target twice": lambda image: _expression(target_mask_ids=(image.masks[0].mask_id,) * 2)(image),
    "no draws": _expression(samples=()),
    "draws that are None": _expression(samples=None),
    "a log-probability that is not a number": _sample(log_prob=float("nan")),
    "a log-probability without end": _sample(log_prob=float("-inf")),
    "a log-probability that is a list": _sample(log_prob=[0.5]),
    "a k beyond 32 bits": _sample(top_k=2**40),
    "another mask's number that is a word": _sample(other_masks=("first",)),
    "an unknown source": _expression(source="oracle"),
    "other masks": lambda image: replace(image, masks=image.masks[1:]),
    "a caption of the whole picture that is a number": lambda image: replace(image, whole_picture=(3,)),
    "captions of the whole picture that are None": lambda image: replace(image, whole_picture=None),
    "a caption of the whole picture with a lone surrogate": lambda image: replace(image, whole_picture=("\ud800",)),
    "expressions that are a text": lambda image: replace(image, expressions="cup"),
}
SCORED = {
    "a score that is not a number": _expression(uniqueness=float("nan")),
    "a score without end": _expression(distinctiveness=float("inf")),
    "a score that is an array": _expression(correctness=np.ones(3)),
    "no score against the others": _expression(uniqueness=None),
    "no rival": _expression(rival_mask_id=None),
    "a rival of another image": _expression(rival_mask_id="other-0000"),
    "itself as its rival": lambda image: _expression(rival_mask_id=image.expressions[0].target_mask_ids[0])(image),
    "a second opinion's rival of another image": _expression(grounding_rival="other-0000"),
    "a share above one": _expression(grounding_share=1.5),
    "a listener below zero": _expression(listener=-0.5),
    "a weight that is not a number": _expression(weight=float("nan")),
    "a rank beyond 32 bits": _expression(rank=2**40),
    "a kept that is None": _expression(kept=None),
}
CASES = [
    pytest.param(number, change, id=f"{kind.name}: {what}")
    for number, (kind, changes) in enumerate(zip(STAGES, (PROPOSED, CAPTIONED, SCORED), strict=True))
    for what, change in changes.items()
]


def _boundary(number, engine):
    return ImageBoundary(engine, STAGES[number].name, is_scored=number == 2)


def _assert_one_is_quarantined(done, due, number):
    failure = done.images[BAD].failure
    assert (failure.stage, failure.reason) == (STAGES[number].name, "bad_output")
    assert f"the {STAGES[number].name} stage returned " in failure.message
    rest = [image for image in done.images if image.position != BAD]
    assert rest == [image for image in due.images if image.position != BAD]
    tables = shard_tables(done, embed_images=False)
    assert all(table_bytes(table) for table in tables.values())
    findings = [detail for check in TABLE_CHECKS for _, details in check(tables) for detail in details]
    assert findings == []
    if number == 2:
        assert [what for what, details in expression_problems(tables) for _ in details] == []


@pytest.mark.parametrize(("number", "change"), CASES)
def test_what_the_tables_cannot_hold_quarantines_its_image_alone(stages_done, number, change):
    before, due = stages_done[number : number + 2]
    images = tuple(change(image) if image.position == BAD else image for image in due.images)
    done = _boundary(number, lambda shard: due.with_images(images))(before)
    _assert_one_is_quarantined(done, due, number)


@pytest.mark.parametrize("number", range(3))
def test_what_a_sound_engine_returns_passes_unchanged(stages_done, number):
    before, due = stages_done[number : number + 2]
    assert _boundary(number, lambda shard: due)(before) == due


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images[:BAD] + images[BAD + 1 :],
        lambda images: (*images, images[BAD]),
        lambda images: (*images[:BAD], replace(images[BAD], image_id="other"), *images[BAD + 1 :]),
    ],
    ids=["lost", "twice", "renamed"],
)
def test_an_image_that_does_not_come_back_once_is_quarantined_alone(stages_done, change):
    before, due = stages_done[:2]
    done = _boundary(0, lambda shard: due.with_images(change(due.images)))(before)
    _assert_one_is_quarantined(done, due, 0)


def test_nothing_else_of_a_shard_or_image_is_an_engines_to_change(stages_done):
    before, due = stages_done[:2]
    images = tuple(replace(image, key="k", sha256="0", height=1, data=b"") for image in due.images[::-1])
    done = _boundary(0, lambda shard: Shard(99, 7, images, seconds=due.seconds))(replace(before, planned_ids=("a",)))
    assert done == replace(due, planned_ids=("a",))


@pytest.mark.parametrize("returned", [None, 7, [], replace(shard_of("a"), seconds=None)])
def test_an_engine_that_returns_no_shard_is_named_in_one_sentence(returned):
    with pytest.raises(ConfigError, match=r"^the engine of the propose stage returned no shard .*plugins.md"):
        _boundary(0, lambda shard: returned)(shard_of("a", "b"))


def _raising_on(*names):
    def engine(shard):
        if any(image.key in names and not image.failure for image in shard.images):
            raise IndexError("list index out of range")
        return shard

    return engine


@pytest.mark.parametrize(("names", "bad"), [("abc", "b"), ("a", "a"), ("ab", "ab")])
def test_an_image_on_which_an_engine_raises_outside_of_the_boundary_fails_alone(names, bad):
    done = _boundary(0, _raising_on(*bad))(shard_of(*names))
    due = ["stage_error" if name in bad else None for name in names]
    assert [image.failure and image.failure.reason for image in done.images] == due


@pytest.mark.parametrize("error", [OSError("disk"), MemoryError(), TransientError("bucket")])
def test_what_is_never_an_images_fault_passes_the_boundary(error):
    engine = Mock(side_effect=error)
    with pytest.raises(type(error)):
        _boundary(0, engine)(shard_of("good", "bad"))
    engine.assert_called_once()


def test_an_engine_that_raises_on_each_of_several_images_is_at_fault_itself():
    with pytest.raises(IndexError, match="out of range"):
        _boundary(0, _raising_on("one", "two", "three"))(shard_of("one", "two", "three"))


def _capital(image):
    texts = (replace(each, text=f"{each.text} {image.key}".upper()) for each in image.expressions)
    return replace(image, expressions=tuple(texts))


def test_an_engine_whose_results_all_have_one_fault_is_named_with_it(stages_done):
    before, due = stages_done[1:3]
    assert sum(bool(image.expressions) for image in due.images) >= 3
    done = due.with_images(tuple(map(_capital, due.images)))
    with pytest.raises(
        ConfigError, match=r"^the caption stage returned expressions.0.text '.*', which is .*plugins.md"
    ):
        _boundary(1, lambda shard: done)(before)


def test_one_sound_image_among_those_of_one_fault_proves_the_engine(stages_done):
    before, due = stages_done[1:3]
    sound = max(image.position for image in due.images if image.expressions)
    images = tuple(image if image.position == sound else _capital(image) for image in due.images)
    done = _boundary(1, lambda shard: due.with_images(images))(before)
    assert [bool(image.failure) for image in done.images] == [
        image != due.images[at] for at, image in enumerate(images)
    ]


def test_an_expression_of_numpys_numbers_is_as_good_as_pythons(stages_done):
    before, due = stages_done[2:]
    first = due.images[0].expressions[0]
    numpys = replace(first, correctness=np.float32(first.correctness), kept=np.bool_(first.kept))
    images = (replace(due.images[0], expressions=(numpys, *due.images[0].expressions[1:])), *due.images[1:])
    done = _boundary(2, lambda shard: due.with_images(images))(before).images[0]
    assert done.failure is None
    assert isinstance(done.expressions[0], ExpressionRecord)
    assert type(done.expressions[0].kept) is bool


MEMORY = (
    MemoryError("host"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    torch.AcceleratorError("CUDA error: out of memory"),
)
DEVICE = (torch.AcceleratorError("illegal access"), RuntimeError("CUDA error: misaligned address"))


def test_an_image_on_which_a_stage_raises_is_quarantined_without_the_foreign_text():
    done = apply_to_images(shard_of("bad"), "caption", Mock(side_effect=ValueError("at 0x7f00deadbeef")))
    failure = done.images[0].failure
    assert failure.reason == "stage_error"
    assert failure.message == "the caption stage raised ValueError; the log holds the traceback"


COMPILER = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})("no gcc")
ELSEWHERE = (OSError("disk"), TransientError("bucket"), ConfigError("setting"), COMPILER)


@pytest.mark.parametrize("error", [*MEMORY, *DEVICE, *ELSEWHERE], ids=repr)
def test_memory_storage_and_accelerator_errors_are_never_an_images_fault(error):
    assert (is_out_of_memory(error), is_broken_device(error)) == (error in MEMORY, error in DEVICE)
    with pytest.raises(type(error), match=re.escape(str(error))):
        apply_to_images(shard_of("bad"), "propose", Mock(side_effect=error))
    with pytest.raises(type(error), match=re.escape(str(error))):
        apply_to_groups(shard_of("a", "bad"), "caption", remembering([], bad="bad", error=error), fits=at_most(2))


def in_triton(error):
    """Return what raises `error` as a function of Triton would, by a `raise` of Python."""
    library = {"__name__": "triton.backends.compiler", "error": error}
    exec("def compiled(image):\n    raise error", library)
    return library["compiled"]


def of_cpp(image):
    torch.ones(2, 3) @ torch.ones(2, 3)


def of_torch_in_python(image):
    torch.nn.functional.interpolate(torch.ones(1, 1, 2, 2), size=(1, 2, 3), mode="no such")


@pytest.mark.parametrize(
    "work",
    [
        in_triton(RuntimeError("PassManager::run failed")),
        in_triton(ValueError("anything")),
        in_triton(CalledProcessError(1, "gcc")),
        of_cpp,
        of_torch_in_python,
    ],
)
def test_on_a_gpu_what_torch_or_triton_raises_blames_no_image_whatever_it_says(monkeypatch, work):
    shard = shard_of("a")
    assert apply_to_images(shard, "caption", work).images[0].failure.reason == "stage_error"
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    with pytest.raises((RuntimeError, ValueError, NotImplementedError, CalledProcessError)):
        apply_to_images(shard, "caption", work)
    # A plug-in's own code may still say that an image is wrong.
    own = apply_to_images(shard, "caption", Mock(side_effect=RuntimeError("no mask has a colour")))
    assert own.images[0].failure.reason == "stage_error"


NOT_SUPPORTED = (
    "Triton Error [CUDA]: device kernel image is invalid",
    "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
)


@pytest.mark.parametrize("text", NOT_SUPPORTED)
def test_a_text_that_names_the_device_is_believed_where_the_device_does_not_answer(monkeypatch, text):
    error, shard = RuntimeError(text), shard_of("a", "b")
    # No GPU is in use.
    assert is_broken_device(error)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", Mock(side_effect=torch.AcceleratorError("illegal access")))
    assert is_broken_device(error)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    assert not is_broken_device(error)
    assert is_broken_device(torch.AcceleratorError("CUDA error: illegal access"))
    with pytest.raises(RuntimeError, match=re.escape(text)):
        apply_to_images(shard, "caption", Mock(side_effect=error))
    assert is_of_libraries(error)


def test_what_a_broken_device_raises_as_its_caches_are_freed_hides_no_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", Mock(side_effect=torch.AcceleratorError("illegal access")))
    free_memory()


def test_what_work_returns_is_kept_whatever_position_it_says():
    done = apply_to_images(shard_of("a", "b"), "propose", lambda image: replace(image, position=9, height=7))
    assert [(image.image_id, image.height) for image in done.images] == [("a", 7), ("b", 7)]


def test_quarantined_images_are_not_worked_on_and_seconds_are_recorded():
    shard = shard_of("bad")
    shard = shard.with_images((shard.images[0].quarantined(Failure("read", "corrupt", "m")),))
    done = apply_to_images(shard, "propose", Mock(side_effect=AssertionError("called")))
    assert done.images == shard.images
    assert done.seconds["propose"] >= 0


def at_most(count):
    return lambda images: len(images) <= count


def remembering(seen, *, bad=None, error=None):
    def work(images):
        seen.append([image.image_id for image in images])
        if error is not None and any(image.image_id == bad for image in images):
            raise error
        return [replace(image, height=7) for image in images]

    return work


def test_successive_images_come_together_while_they_fit_and_quarantined_ones_stay_out():
    shard, seen = shard_of("a", "b", "c", "d", "e"), []
    lost = shard.images[1].quarantined(Failure("read", "missing", "gone"))
    shard = shard.with_images((shard.images[0], lost, *shard.images[2:]))
    done = apply_to_groups(shard, "caption", remembering(seen), fits=at_most(3))
    assert seen == [["a", "c", "d"], ["e"]]
    assert [image.image_id for image in done.images] == ["a", "b", "c", "d", "e"]
    assert [image.height for image in done.images] == [7, 9, 7, 7, 7]
    assert set(done.seconds) == {"caption"}


def test_an_image_that_never_fits_goes_alone():
    seen = []
    apply_to_groups(shard_of("a", "b"), "caption", remembering(seen), fits=lambda images: False)
    assert seen == [["a"], ["b"]]


@pytest.mark.parametrize(
    "error", [ValueError("odd"), RuntimeError("shapes differ"), ZeroDivisionError("no"), ImageError("corrupt", "torn")]
)
def test_of_a_group_only_the_image_at_fault_is_quarantined(error):
    seen = []
    done = apply_to_groups(
        shard_of("a", "bad", "c"), "caption", remembering(seen, bad="bad", error=error), fits=at_most(3)
    )
    assert seen[0] == ["a", "bad", "c"]
    assert [image.failure is None for image in done.images] == [True, False, True]


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_memory_that_torch_or_numpy_cannot_get_is_known_as_such_and_never_an_images_fault(allocate):
    with pytest.raises((RuntimeError, MemoryError), match=r"(?i)allocate") as raised:
        apply_to_images(shard_of("a"), "propose", lambda image: allocate(10**15) is None)
    assert is_out_of_memory(raised.value)


def test_errors_are_told_apart_where_torch_is_not_loaded():
    code = (
        "import sys; from pseudoris.workers.faults.quarantine import is_broken_device, is_out_of_memory\n"
        "print(is_out_of_memory(MemoryError()), is_broken_device(ValueError('x')), 'torch' in sys.modules)"
    )
    assert python_says(code) == "True False False"

"""The proof of fixed shapes on a pretended GPU: that it holds, that it ends soon, and that each part of it can fail."""

import json
import re
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pseudoris.primitives.errors import BrokenDeviceError, ConfigError, TransientError
from pseudoris.workers.captions import CocaCaptioner, decoder_choice, row_kernels, static_proof
from pseudoris.workers.captions.cached_towers import CocaBlocks
from pseudoris.workers.captions.decoder_choice import chosen_decoder
from pseudoris.workers.captions.static_engine import caption_slots
from pseudoris.workers.captions.static_proof import fault_of_fixed_shapes
from pseudoris.workers.checkpoints.openclip import build_from_config
from pseudoris.workers.stages import gpu_decoder
from tests.builders.coca import narrow_config
from tests.oracles.pretended_gpu import pretended_gpu
from tests.oracles.pretended_graph import PretendedGraph


@pytest.fixture
def config(tmp_path):
    return narrow_config(tmp_path)


@pytest.fixture
def put():
    """Return what puts a kernel in place of one of `row_kernels`, as a card's own would be; all are put back."""
    names = "attend_newest", "attend_image", "shifted_norm"

    def put(name, kernel):
        getattr(row_kernels, name).register_kernel("cpu", kernel)

    yield put
    for name in names:
        put(name, getattr(row_kernels, f"plain_{name}"))


def fault(config, precision="float32", **short):
    compute = config.compute.model_copy(update={"precision": precision})
    with pretended_gpu():
        return fault_of_fixed_shapes(config.captions, compute, **short)


@pytest.mark.slow
@pytest.mark.long
def test_the_proof_holds_before_it_is_decided_how_many_crops_go_together(tmp_path):
    assert fault(narrow_config(tmp_path, "captions.crops_together=auto")) == ""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.long)])
def test_the_proof_holds_where_nothing_is_wrong(config, precision):
    assert fault(config, precision) == ""


def wrong(projected, cache, position, sources):
    return row_kernels.plain_attend_newest(projected, cache, position, sources) * 1.1


def one_position_late(projected, cache, position, sources):
    return row_kernels.plain_attend_newest(projected, cache, (position - 1).clamp(min=0), sources)


def one_position_ahead(projected, cache, position, sources):
    mixed = row_kernels.plain_attend_newest(projected, cache, position, sources)
    ahead = row_kernels.plain_attend_newest(projected, cache.clone(), (position + 1).clamp(max=18), sources)
    return mixed.where((position == 18)[:, None], ahead)


def stale(projected, cache, position, sources):
    return row_kernels.plain_attend_newest(projected, cache.clone(), position, sources)


def of_own_rows(projected, cache, position, sources):
    own = torch.arange(len(sources), dtype=torch.int32)[:, None].expand_as(sources).where(sources >= 0, sources)
    return row_kernels.plain_attend_newest(projected, cache, position, own)


def reading_what_is_masked(projected, cache, position, sources):
    return row_kernels.plain_attend_newest(projected, cache, position, sources.abs())


def under_the_next_crop(queries, cache, crops, by_crop):
    return row_kernels.plain_attend_image(queries, cache, (crops + 1) % cache.shape[1], by_crop)


def without_the_last_tokens(queries, cache, crops, by_crop):
    return row_kernels.plain_attend_image(queries, cache[:, :, :, :64], crops, by_crop)


def norm_of_the_sum_alone(x, shift, weight, bias, eps):
    return (x + shift).to(x.dtype)


def norm_without_the_shift(x, shift, weight, bias, eps):
    return row_kernels.plain_shifted_norm(x, torch.zeros_like(shift), weight, bias, eps)


ATTENTION = r"attention by Triton differs from torch by \S+ at width 16 in "
IMAGE = ATTENTION.replace("attention", "attention to images")
NORM = r"the norm by Triton differs from torch by \S+ at width 32 in "


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "kernel", "said"),
    [
        ("attend_newest", wrong, ATTENTION),
        ("attend_newest", one_position_late, ATTENTION),
        ("attend_newest", one_position_ahead, ATTENTION),
        ("attend_newest", stale, ATTENTION),
        ("attend_newest", of_own_rows, ATTENTION),
        ("attend_newest", reading_what_is_masked, ATTENTION),
        ("attend_image", under_the_next_crop, IMAGE),
        ("attend_image", without_the_last_tokens, IMAGE),
        ("shifted_norm", norm_of_the_sum_alone, NORM),
        ("shifted_norm", norm_without_the_shift, NORM),
    ],
)
def test_a_kernel_that_is_off_is_named_with_its_width(config, put, precision, name, kernel, said):
    put(name, kernel)
    assert re.fullmatch(said + precision, fault(config, precision, is_short=True))


class ReplayOfAnotherShape(PretendedGraph):
    """A graph that was recorded for half the rows: what it would write behind them stays as it was."""

    def replay(self):
        written = [
            args[0] for function, args, *_ in self._calls if function.__name__ in {"copy_", "add_", "index_copy_"}
        ]
        before = [tensor.clone() for tensor in written]
        super().replay()
        for tensor, held in zip(written, before, strict=True):
            tensor[len(held) // 2 :] = held[len(held) // 2 :]


@pytest.mark.slow
def test_a_replay_of_another_shape_is_found_by_the_short_proof(config):
    with pretended_gpu(), mock.patch.object(torch.cuda, "CUDAGraph", ReplayOfAnotherShape):
        found = fault_of_fixed_shapes(config.captions, config.compute, is_short=True)
    # Slots behind the first half never begin.
    assert found == "no row of captions ends in fixed shapes"


class ReplayOfOtherBits(PretendedGraph):
    """A graph whose sums of log-probabilities are a little off."""

    def replay(self):
        super().replay()
        for function, (total, *_), *_ in self._calls:
            if function.__name__ == "add_" and total.dtype == torch.float64:
                total.add_(1e-9)


@pytest.mark.slow
def test_a_replay_of_other_bits_is_found_by_the_short_proof(config):
    with pretended_gpu(), mock.patch.object(torch.cuda, "CUDAGraph", ReplayOfOtherBits):
        found = fault_of_fixed_shapes(config.captions, config.compute, is_short=True)
    assert found == "a step gives other bits where it is recorded than where it is launched"


@pytest.mark.slow
def test_a_row_that_depends_on_its_neighbour_is_found_below_the_tolerance_of_kernels(config, put):
    def leaking(*given):
        normed = row_kernels.plain_shifted_norm(*given)
        return normed + 1e-6 * normed.roll(1, 0)

    put("shifted_norm", leaking)
    assert fault(config, is_short=True) == ""
    assert fault(config) == "the bits of a caption depend on what is decoded beside it"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_what_is_wrong_for_a_number_of_rows_that_the_kernels_were_not_asked_for_is_found_by_the_tree(
    config, put, precision
):
    def of_some_rows(projected, cache, position, sources):
        mixed = row_kernels.plain_attend_newest(projected, cache, position, sources)
        return mixed if len(projected) == 65 else torch.zeros_like(mixed)

    put("attend_newest", of_some_rows)
    found = fault(config, precision)
    assert re.fullmatch(r"\d of \d captions by (beam|top_k|top_p) are those of the tree", found)


def test_what_a_kernel_raises_is_told_in_one_line(config, put):
    def refused(*_):
        raise RuntimeError("PassManager::run failed\n  at 3")

    put("shifted_norm", refused)
    assert fault(config) == "RuntimeError: PassManager::run failed at 3"


def test_a_broken_device_is_told_also_where_its_caches_cannot_be_freed(config, put):
    def broken(*_):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    put("shifted_norm", broken)
    with mock.patch.object(torch.cuda, "empty_cache", broken), pytest.raises(BrokenDeviceError, match="illegal memory"):
        fault(config)


def test_the_whole_proof_has_as_many_slots_as_the_run_and_the_short_one_few(tmp_path, config, put):
    path = tmp_path / "coca.json"
    deep = json.loads(path.read_text())
    deep["multimodal_cfg"]["layers"] = 6
    path.write_text(json.dumps(deep))
    captions = config.captions.model_copy(update={"cache_bytes": 2**28})
    with torch.device("meta"):
        of_run = caption_slots(CocaBlocks(build_from_config(deep)), captions)
    seen = []

    def attend(projected, *given):
        if len(projected) != 65:
            seen.append(len(projected))
            raise RuntimeError("a step of decoding")
        return row_kernels.plain_attend_newest(projected, *given)

    put("attend_newest", attend)
    for is_short in (False, True):
        with pretended_gpu():
            fault_of_fixed_shapes(captions, config.compute, is_short=is_short)
    # The first attention of a step is of the text tower, over prefixes.
    assert seen[0] == of_run.prefixes
    assert of_run.pairs > 256
    assert seen[1] < of_run.prefixes // 4


class Counted(TorchDispatchMode):
    """Counts what the host launches, and programs that Triton would compile: by function, type and constants."""

    def __init__(self):
        super().__init__()
        self.num_launches, self.num_replays, self.programs = 0, 0, set()
        counted = self

        class Graph(PretendedGraph):
            def replay(self):
                before = counted.num_launches
                super().replay()
                # A replay is one launch.
                counted.num_launches, counted.num_replays = before + 1, counted.num_replays + 1

        self.graph = Graph

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num_launches += not func.is_view
        if func.namespace == "pseudoris" and func._opname in {"attend_newest", "shifted_norm"}:
            given = args[1].shape[3:] if func._opname == "attend_newest" else args[0].shape[1:]
            padded = tuple(1 << (size - 1).bit_length() for size in given)
            self.programs.add((func._opname, args[0].dtype, padded))
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
def test_the_proof_has_a_bounded_number_of_launches_recordings_and_compiled_programs(config):
    for is_short, most in ((True, 5_000), (False, 20_000)):
        counted = Counted()
        with pretended_gpu() as gpu, mock.patch.object(torch.cuda, "CUDAGraph", counted.graph), counted:
            assert fault_of_fixed_shapes(config.captions, config.compute, is_short=is_short) == ""
        programs = len(counted.programs)
        print(f"{is_short=}: {counted.num_launches} launches, {counted.num_replays} of them replays")
        print(f"{gpu.num_recordings} recordings, {programs} programs of Triton")
        assert counted.num_launches <= most
        assert gpu.num_recordings <= 8
        # Both widths of a program may differ, and attention has the lengths of the run and of the probe.
        assert programs <= 3


@pytest.fixture
def a_compiler(monkeypatch):
    monkeypatch.setattr(decoder_choice, "triton_version", lambda: ("3.5.1", ""))


def chosen(config, decoder, seed):
    compute = config.compute.model_copy(update={"seed": seed})
    with pretended_gpu():
        return chosen_decoder(config.captions.model_copy(update={"decoder": decoder}), compute)


@pytest.mark.slow
@pytest.mark.usefixtures("a_compiler")
def test_auto_is_fixed_shapes_where_the_proof_holds_and_a_process_proves_them_once(config, put):
    assert chosen(config, "auto", 1) == ("static", "")
    put("shifted_norm", norm_of_the_sum_alone)
    assert chosen(config, "auto", 1) == ("static", "")


@pytest.mark.usefixtures("a_compiler")
def test_auto_is_the_tree_and_one_sentence_where_the_proof_fails(config, put):
    put("attend_newest", stale)
    name, why = chosen(config, "auto", 2)
    assert name == "tree"
    assert re.fullmatch("fixed shapes are off on this card: " + ATTENTION + "float32", why)


def test_without_a_compiler_auto_is_the_tree_and_nothing_is_proven(config, put):
    put("shifted_norm", norm_of_the_sum_alone)
    assert chosen(config, "auto", 3)[1].startswith("fixed shapes are off on this card: Triton cannot compile for it (")


@pytest.mark.usefixtures("a_compiler")
def test_planning_makes_the_whole_proof_and_a_process_of_the_run_the_short_one(config, monkeypatch):
    compute, proofs = config.compute.model_copy(update={"seed": 5}), []
    config = config.model_copy(update={"compute": compute})

    def proof(captions, compute, *, is_short):
        proofs.append("short" if is_short else "whole")
        return "something"

    monkeypatch.setattr(static_proof, "fault_of_fixed_shapes", proof)
    with pretended_gpu():
        # A run that may be mixed leaves the decoder to each card.
        assert gpu_decoder(config)[0] == "tree"
        CocaCaptioner(config.captions, compute)
        assert proofs == ["short"]
        assert gpu_decoder(config, is_proven=True)[0] == "tree"
    assert proofs == ["short", "whole"]


def test_a_captioner_in_fixed_shapes_is_refused_on_a_card_that_fails_the_short_proof(config, put):
    put("attend_newest", stale)
    captions = config.captions.model_copy(update={"decoder": "static"})
    message = r"captions\.decoder=static: fixed shapes are off on this card: attention .*decoder=tree.*--allow-mixed"
    with pretended_gpu(), pytest.raises(ConfigError, match=message):
        CocaCaptioner(captions, config.compute.model_copy(update={"seed": 4}))


@pytest.mark.usefixtures("a_compiler")
def test_memory_that_runs_out_in_the_proof_is_no_fault_of_fixed_shapes(config, put):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory, 1.00 GiB is free")

    put("attend_newest", full)
    for decoder in "auto", "static":
        config = config.model_copy(update={"captions": config.captions.model_copy(update={"decoder": decoder})})
        with (
            pretended_gpu(),
            pytest.raises(TransientError, match=r"memory ran out in .*: end .*1\.00 GiB is free"),
        ):
            gpu_decoder(config, is_proven=True)
    with pretended_gpu(), pytest.raises(torch.OutOfMemoryError):
        CocaCaptioner(config.captions, config.compute)
    # It is not held against a card that has room later.
    put("attend_newest", stale)
    with pretended_gpu(), pytest.raises(ConfigError, match=r"captions\.decoder=static: .*attention"):
        gpu_decoder(config, is_proven=True)


class ReplayOfOtherWideRows(PretendedGraph):
    """A graph that errs by a little for what it decides over the whole vocabulary."""

    def replay(self):
        sums = [args[0] for function, args, *_ in self._calls if function.__name__ == "add_"]
        sums = [total for total in sums if total.dtype == torch.float64]
        is_wide = any(function.__name__ == "sort" and args[0].shape[-1] > 10_000 for function, args, *_ in self._calls)
        before = [total.clone() for total in sums]
        super().replay()
        for total, held in zip(sums, before, strict=True):
            total.add_((total - held) * (1e-6 if is_wide else 0))


@pytest.mark.slow
def test_a_replay_that_is_wrong_for_wide_rows_alone_is_found(config):
    with pretended_gpu(), mock.patch.object(torch.cuda, "CUDAGraph", ReplayOfOtherWideRows):
        found = fault_of_fixed_shapes(config.captions, config.compute)
    assert found == "a step gives other bits where it is recorded than where it is launched"

"""What a stage asks of a GPU that is pretended, how often it waits for one, and what is compared before."""

import json
import shutil
from dataclasses import replace
from functools import cache
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from evidence.benchmarks import gpu_agreement, gpu_limits
from evidence.benchmarks.captioner import AuthorsLoop, noise_crops, one_crop_kind, scenes_with
from evidence.benchmarks.filter import largest_difference
from evidence.benchmarks.gpu_meter import CARDS, Meter, Words
from evidence.benchmarks.mask_sides import scene_pixels
from evidence.benchmarks.operation_counts import sampling_operations
from evidence.benchmarks.synchronisations import measure
from pseudoris.primitives import rle
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.captions.row_kernels import attend_image
from pseudoris.workers.checkpoints.openclip import load_coca
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.forward_passes import compile_tower
from pseudoris.workers.masks import sam_model
from pseudoris.workers.masks.generator import SamProposer
from tests.builders.coca import narrow_config, small_coca
from tests.oracles.pretended_gpu import pretended_gpu
from tests.oracles.pretended_graph import PretendedGraph
from tests.workers.captions.test_static_engine import ragged, static

# Of an image, of five scenes of two masks in bfloat16: what a change must not raise. The prover decodes once more. Of
# four images masks are counted, so captions decode the fifth. Of an image there are five crops.
MOST = {
    "masks": {"kernels": 2_050, "reads": 3 / 4, "copies": 28, "decodes": 1},
    # Few images wait for slots of searches; steps of so few rows are many small kernels, in few launches.
    "captions × 8": {"kernels": 1_900, "launches": 160, "reads": 4 / 5, "copies": 26, "decodes": 1 / 5},
    "filter": {"kernels": 120, "reads": 2 / 5, "copies": 23, "decodes": 0},
}
# More points, rules or kinds of crops make tensors larger, or steps more, but no step or pass another.
FEW = (
    "masks.points_per_side=6",
    "captions.sampling.top_p=[0.8]",
    "captions.context_scales=[1.0]",
    "captions.max_length=12",
    "captions.slots=256",
)
NODES = torch.arange(32) % 9


def step(x, weight, nodes):
    """Gather rows, multiply them, and attend to them with two queries each."""
    rows = x.index_select(0, nodes)
    query = F.linear(rows, weight)
    return F.scaled_dot_product_attention(*(each.view(4, 4, 2, 64) for each in (query, rows, rows)))


def metered(*, is_hollow):
    x, weight = torch.ones(9, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16)
    meter = Meter([torch.bfloat16] if is_hollow else [])
    with torch.inference_mode(), meter:
        return meter, step(x, weight, NODES)


def test_operations_that_are_only_seen_count_as_those_that_are_computed():
    (computed, result), (seen, made) = metered(is_hollow=False), metered(is_hollow=True)
    assert (computed.counts, computed.flops, computed.card_s) == (seen.counts, seen.flops, seen.card_s)
    assert result.shape == made.shape
    assert not torch.equal(result, made)


@pytest.mark.parametrize("is_hollow", [False, True])
def test_a_product_into_memory_that_is_there_is_computed(is_hollow):
    x, out = torch.ones(3, 2, 4), torch.zeros(3, 2, 4)
    with torch.inference_mode(), Meter([torch.float32] if is_hollow else []) as meter:
        torch.bmm(x, torch.ones(3, 4, 4), out=out)
    assert out.eq(4).all()
    assert meter.flops == {"float32": 2 * 3 * 2 * 4 * 4}


def test_kernels_operations_and_bytes_are_those_of_the_shapes():
    meter, _ = metered(is_hollow=True)
    product, attention, rows = 2 * 32 * 64 * 64, 2 * (16 * 2 * 2) * (64 + 64), 2 * 32 * 64
    assert meter.flops == {"bfloat16": product + attention}
    # The rest are views.
    assert meter.counts["kernels"] == 3
    assert (meter.counts["useful"], meter.counts["tiles"]) == (attention, 16 * 4 * 128 * 128 * 64)
    # What is gathered is read and written.
    assert meter.counts["bytes"] == (8 * 32 + 2 * rows) + (2 * rows + 2 * 64 * 64) + (3 * rows + rows)
    assert meter.card_s["H200"] == 3 * 2.5e-6
    # An L4 moves a sixteenth of the bytes a second, and a T4 computes the fewest operations.
    assert meter.card_s["T4"] >= meter.card_s["L4"] >= meter.card_s["H200"]


@pytest.mark.parametrize("is_hollow", [False, True])
def test_attention_to_crops_reads_a_crop_from_memory_once_and_from_a_cache_for_each_further_program(is_hollow):
    heads, length, width = 2, 5, 16
    # Of seven crops three are read. Two programs of up to 64 rows: of all three crops, and of 3.
    crops = torch.tensor([0] * 30 + [1] * 10 + [3] * 30)[torch.randperm(70)]
    queries = torch.ones(70, heads, width, dtype=torch.bfloat16)
    cache = torch.ones(2, 7, heads, length, width, dtype=torch.bfloat16)
    meter = Meter([torch.bfloat16] if is_hollow else [])
    with torch.inference_mode(), meter:
        attend_image(queries, cache, crops, crops.argsort(stable=True))
    assert meter.bytes_by["attend_image"] == 3 * cache[:, 0].nbytes + 2 * queries.nbytes + 2 * 8 * 70
    assert meter.counts["useful"] == meter.flops["bfloat16"] == 70 * 4 * heads * length * width
    # A program computes all its rows under each of their crops.
    assert meter.counts["tiles"] == 4 * 64 * 4 * heads * length * width


def test_a_cache_gives_what_is_read_again_faster_than_memory_where_it_holds_it():
    card = CARDS["L4"]
    cases = (0, 0), (1e9, 2e7), (1e9, 3e7)
    once, held, spilled = (card.kernel_s("bfloat16", 0, 0, 1e9, again=again, at=at) for again, at in cases)
    assert once < held < spilled == pytest.approx(2 * once)


def test_in_place_what_is_read_and_written_counts_and_of_a_scatter_what_it_is_given():
    def moved(work):
        with torch.inference_mode(), Meter() as meter:
            work()
        return meter.counts["bytes"]

    total, some, column, rows = torch.zeros(100, 8), torch.zeros(4, 8), torch.ones(100, 1), torch.arange(4)
    assert moved(lambda: total.add_(1)) == 2 * total.nbytes
    assert moved(lambda: total.copy_(torch.ones(1).expand_as(total))) == total.nbytes + 2 * 4
    assert moved(lambda: total.index_copy_(0, rows, some)) == 2 * some.nbytes + rows.nbytes
    assert moved(lambda: total.addmm_(column, some[:1])) == 2 * total.nbytes + column.nbytes + some[:1].nbytes


def test_a_vocabulary_of_few_live_tokens_counts_as_the_whole_one():
    def asked(live, words=None):
        meter = Meter(words=words)
        with torch.inference_mode(), meter:
            F.linear(torch.ones(8, 64), torch.ones(live, 64)).logsumexp(dim=1)
        return meter

    few, whole = asked(50, Words(50, 1000)), asked(1000)
    assert few.flops == whole.flops
    assert few.counts["bytes"] == whole.counts["bytes"]


def test_a_recorded_step_is_one_launch_of_the_host():
    def step():
        return torch.ones(8) + 1

    with pretended_gpu() as gpu:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        graph.replay()
        row, _ = gpu_limits.limits_of("captions", lambda: graph.replay(), gpu, Meter(), images=1)
    assert (row["launches"], row["kernels"]) == (1, 2)


@pytest.mark.slow
# With the first many rows are wide, and wait for their turn.
@pytest.mark.parametrize("sureness", [1.0, pytest.param(30.0, marks=pytest.mark.long)])
def test_recordings_that_are_counted_once_ask_for_what_replays_ask_for_that_are_counted_whole(
    tmp_path, monkeypatch, sureness
):
    few = (
        "captions.slots=64",
        "captions.max_length=8",
        "captions.has_masked_crop=false",
        "captions.context_scales=[1.0]",
    )
    config = narrow_config(tmp_path, "captions.decoder=static", "compute.precision=bfloat16", *few)

    def row():
        shard = scenes_with([2, 3], 2)
        found = gpu_limits.measure(config, ["captions"], shard, sureness=[sureness], live=205, kept=1.0)
        return {name: value for name, value in next(found).items() if name != "host_s"}

    once = row()
    monkeypatch.setattr(gpu_limits, "CountedGraph", lambda *_: PretendedGraph())
    whole = row()
    assert (once["wide"] > 0.2) == (sureness == 1.0)
    assert once.pop("modelled_s") == pytest.approx(whole.pop("modelled_s"), rel=1e-9)
    assert once == whole


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    path = tmp_path_factory.mktemp("limits") / "rows.json"
    words = ("--preset", "tiny", "--images", "5", "--masks", "2", "--sureness", "8")
    gpu_limits.main([*words, "--set", "compute.precision=bfloat16", *FEW, "--json", str(path)])
    return {row["stage"]: row for row in json.loads(path.read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("stage", MOST)
def test_a_stage_asks_a_gpu_for_no_more_than(stages, stage):
    row = stages[stage]
    assert {name: row[name] for name in MOST[stage] if row[name] > MOST[stage][name]} == {}
    assert row["host_s"] > 0
    assert row["modelled_s"]["H200"] <= row["modelled_s"]["L4"]
    assert sum(row["bytes_by"].values()) == pytest.approx(row["bytes"])


@pytest.fixture(scope="module")
def bytes_of_masks():
    """Bytes by part of an image of `base` in half precision, of a share of kept points and a number of images."""

    @cache
    def count(kept, images):
        config = gpu_limits.shipped_config("base", 0.0, ["compute.precision=bfloat16"])
        with pretended_gpu() as gpu:
            row = gpu_limits.mask_limits(gpu, config, scenes_with(1, images), kept=kept)
        assert sum(row["parts"].values()) == pytest.approx(row["bytes"])
        return {"all": row["bytes"], **row["parts"]}

    return count


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "images"), [pytest.param(0.4, 4, marks=pytest.mark.long), (0.4, 1), (0.9, 1)])
def test_masks_of_base_move_no_more_bytes_than(bytes_of_masks, kept, images):
    found = bytes_of_masks(kept, images)
    assert found["encoder"] <= 6e9
    assert found["attention"] <= 34e9
    assert found["upscaling"] <= 39e9 * kept
    assert kept > 0.4 or found["all"] <= 77e9
    # One image alone fills no pass up.
    assert images == 4 or kept > 0.4 or found["all"] <= 1.01 * bytes_of_masks(kept, 4)["all"]


@pytest.fixture(scope="module")
def model():
    config = load_config("tiny").captions
    return load_coca(config.architecture, config.weights)


def counted(model, *, length, num_masks):
    """Operations of one step for one row, as torch counts those of open_clip's own forward."""
    crops = noise_crops(num_masks, model.visual.image_size[0]).pixels[0]
    with torch.inference_mode(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        tokens = model(crops)["image_embs"]
        with FlopCounterMode(display=False) as counter:
            _, text = model._encode_text(torch.full((1, length), 5))
            model.text_decoder(tokens, text.expand(num_masks, -1, -1))
    return counter.get_total_flops()


@pytest.mark.parametrize("length", [1, 6])
def test_a_step_costs_what_torch_counts(model, length):
    config = one_crop_kind(load_config("tiny").captions, num_steps=8)
    # A caption of length - 1 tokens is live at every step up to `length`, the others at none beyond theirs.
    until = sampling_operations(model, [length - 1], config, num_masks=3)
    before = sampling_operations(model, [length - 2], config, num_masks=3)
    assert until - before == pytest.approx(counted(model, length=length, num_masks=3), rel=0.05)


ON_GPU = ["compute.device=cuda", "placement.fused.num_gpus=1", "captions.decoder=static"]
# A wait that is added here is one in every step of every image: find another way first.
BOUNDS = {
    "masks, a batch of images": 3,
    "instances, an image beside the detector": 3,
    "crops, an image": 0,
    # It looks less often for an image if more images share a batch.
    "captions, a batch": 4,
    "captions, all else of the images": 0,
    "captions, a step of the tree with wide kept sets": 3,
    "listener, an image": 3,
    "filter, a shard": 2,
    "PPT, a step of the trainer": 6,
}


# Both of two bytes take the same way; four bytes wait where two do, and take half a minute to say so.
@pytest.fixture(scope="module", params=["bfloat16", pytest.param("float32", marks=pytest.mark.long)])
def rows(request):
    return {row.part: row for row in measure(request.param)}


@pytest.mark.slow
@pytest.mark.parametrize("part", BOUNDS)
def test_the_cpu_waits_for_the_gpu_no_more_often_than(rows, part):
    assert rows[part].most <= BOUNDS[part], rows[part].places


@pytest.mark.slow
def test_cuda_draws_the_captions_of_the_authors_loop_in_float64():
    with pretended_gpu():
        gpu_agreement.check_captions(load_config("tiny", assignments=ON_GPU))


@pytest.mark.slow
@pytest.mark.long
def test_cuda_scores_as_a_cpu_does():
    config = load_config("tiny")
    captioned = CocaCaptioner(config.captions, config.compute)(scenes_with(3, 2))
    on_cpu = ClipScorer(config.filtering, config.compute)(captioned)
    with pretended_gpu():
        config = load_config("tiny", assignments=ON_GPU)
        on_gpu = ClipScorer(config.filtering, config.compute)(captioned)
    # Products are of another library there.
    assert largest_difference(on_gpu, on_cpu) < 1e-6
    assert any(expression.kept for image in on_gpu.images for expression in image.expressions)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.long)])
def test_cuda_finds_the_masks_that_a_cpu_finds(precision):
    shard = scenes_with(1, 2)
    config = load_config("tiny")
    on_cpu = SamProposer(config.masks, config.compute)(shard)
    with pretended_gpu():
        config = load_config("tiny", assignments=[*ON_GPU, f"compute.precision={precision}"])
        on_gpu = SamProposer(config.masks, config.compute)(shard)
    for one, other in zip(on_cpu.images, on_gpu.images, strict=True):
        expected, found = ([mask.rle_counts for mask in image.masks] for image in (one, other))
        if precision == "float32":
            assert found == expected
        assert len(found) == len(expected) >= 7
        assert rle.ious(found, expected, one.masks[0].rle_size).max(axis=1).mean() >= 0.99


@pytest.mark.slow
def test_engines_that_draw_other_captions_are_not_timed(monkeypatch):
    sample = AuthorsLoop.sample
    monkeypatch.setattr(AuthorsLoop, "sample", lambda self, *given: [(), *sample(self, *given)[1:]])
    with pytest.raises(ValueError, match="caption 0 differs in float64"):
        gpu_agreement.check_captions(load_config("tiny"))


HALF = load_config("tiny", assignments=["compute.precision=bfloat16"])


@pytest.mark.parametrize("name", ["embed_crops", "embed_texts"])
def test_a_filter_that_embeds_otherwise_is_not_timed(monkeypatch, name):
    gpu_agreement.check_embeddings(HALF)
    embed = getattr(ClipEmbedder, name)

    def other_in_half(self, given):
        rows = embed(self, given)
        return rows if self._dtype == torch.float32 else rows.roll(1, dims=0)

    monkeypatch.setattr(ClipEmbedder, name, other_in_half)
    with pytest.raises(ValueError, match=f"embeddings of {name.removeprefix('embed_')}, bfloat16, are"):
        gpu_agreement.check_embeddings(HALF)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++")
@pytest.mark.long
def test_all_compiled_engines_of_a_preset_give_what_their_references_give():
    torch.compiler.reset()
    config = load_config("tiny", assignments=["compute.is_compiled=true", "compute.precision=bfloat16"])
    gpu_agreement.check_captions(config)
    gpu_agreement.check_embeddings(config)
    sam = sam_model.load_sam(config.masks.architecture, config.masks.weights).requires_grad_(False)
    with torch.inference_mode():
        (expected,) = sam_model.encode_sam_crops(sam, scene_pixels(1), torch.float32)
        compile_tower(sam.image_encoder)
        (found,) = sam_model.encode_sam_crops(sam, scene_pixels(1), torch.bfloat16)
    assert (found.embedding - expected.embedding).norm() < 0.1 * expected.embedding.norm()


def kernels_of_a_step(meter, num_layers, **changes):
    """Return how many kernels the recorded step has that has most, of a model of so many layers a tower, and rows."""
    found = []

    class Graph(PretendedGraph):
        def replay(self):
            meter.clear()
            with meter:
                super().replay()
            found.append(meter.counts["kernels"])

    with pretended_gpu(), mock.patch.object(torch.cuda, "CUDAGraph", Graph):
        layers, dtype = {"layers": num_layers}, torch.bfloat16
        engine = static(small_coca(dtype=dtype, text=layers, decoder=layers).to("cuda"), max_length=5, **changes)
        (image,) = ragged((1,), dtype)
        engine.generate(replace(image, pixels=image.pixels.to("cuda")))
    return max(found), engine.shape.rows


@pytest.mark.slow
def test_a_step_of_twelve_and_twelve_layers_has_at_most_520_kernels_at_any_number_of_rows():
    meter = Meter()
    one, few = kernels_of_a_step(meter, 1)
    same, more = kernels_of_a_step(meter, 1, cache_bytes=2**23)
    two, _ = kernels_of_a_step(meter, 2)
    assert few < more
    assert one == same
    assert 0 < one + 11 * (two - one) <= 520, (one, two)

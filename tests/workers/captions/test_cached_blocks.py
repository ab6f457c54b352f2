import pytest
import torch
import torch.nn.functional as F

from benchmarks.pretended_gpu import pretended_gpu
from pseudoris.workers.captions.cached_blocks import NodeCache, attend


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_attention_equals_torchs_own():
    q, k, v = random(2, 3, 1, 4), random(2, 3, 5, 4, seed=1), random(2, 3, 5, 4, seed=2)
    is_hidden = torch.zeros(3, 5, dtype=torch.bool)
    is_hidden[1, 2] = True
    ours = attend(q, k, v, is_hidden[None, :, None])
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, attn_mask=~is_hidden[None, :, None]))


def test_half_precision_attention_returns_its_dtype():
    q, k, v = (random(1, 2, 3, 4, seed=seed).to(torch.bfloat16) for seed in range(3))
    assert attend(q, k, v).dtype == torch.bfloat16


def test_a_cache_gives_back_the_nodes_on_each_rows_pages():
    cache = NodeCache(num_layers=2, num_heads=2, width=6)
    keys, values = random(4, 6), random(4, 6, seed=1)
    cache.write(1, cache.reserve(4, keys), keys, values)
    nodes = torch.tensor([[0, 3], [2, 1]])
    found_keys, found_values = cache.read(1, nodes)
    assert torch.equal(found_keys, keys[nodes].view(2, 2, 2, 3).permute(2, 0, 1, 3))
    assert torch.equal(found_values, values[nodes].view(2, 2, 2, 3).permute(2, 0, 1, 3))


def test_a_cache_keeps_its_nodes_when_it_grows_and_reuses_freed_ones():
    cache = NodeCache(num_layers=1, num_heads=1, width=2)
    keys = random(200, 2)
    cache.write(0, cache.reserve(200, keys), keys, keys)
    assert cache.reserve(5000, keys) == 200
    assert torch.equal(cache.read(0, torch.arange(200)[None])[0][0, 0], keys)
    cache.size = 200
    assert cache.reserve(1, keys) == 200


def test_a_node_takes_its_keys_and_values():
    assert NodeCache.node_bytes(12, 768, torch.bfloat16) == 2 * 12 * 768 * 2


def test_reading_before_anything_is_cached_is_an_error():
    with pytest.raises(RuntimeError, match="call reserve before"):
        NodeCache(1, 1, 2).read(0, torch.tensor([[0]]))


@pytest.mark.parametrize("is_hiding", [True, False])
def test_the_kernels_attention_is_what_it_is_written_out(is_hiding):
    q, k, v = (random(4, 30, length, 16, seed=seed) for seed, length in enumerate((1, 9, 9)))
    is_hidden = (torch.arange(9) == 3).expand(30, 9)[None, :, None] if is_hiding else None
    with pretended_gpu():
        on_gpu = attend(*(part.to("cuda") for part in (q, k, v)), None if is_hidden is None else is_hidden.to("cuda"))
        found = on_gpu.cpu()
    torch.testing.assert_close(found, attend(q, k, v, is_hidden))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("is_hiding", [True, False])
def test_on_a_gpu_attention_is_what_it_is_on_a_cpu(is_hiding):
    q, k, v = (random(4, 300, length, 16, seed=seed).float() for seed, length in enumerate((1, 9, 9)))
    is_hidden = (torch.arange(9) == 3).expand(300, 9)[None, :, None] if is_hiding else None
    on_gpu = attend(q.cuda(), k.cuda(), v.cuda(), None if is_hidden is None else is_hidden.cuda())
    torch.testing.assert_close(on_gpu.cpu(), attend(q, k, v, is_hidden), rtol=1e-4, atol=1e-4)

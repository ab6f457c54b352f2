import pytest
import torch

from pseudoris.workers.captions.cached_blocks import NodeCache


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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

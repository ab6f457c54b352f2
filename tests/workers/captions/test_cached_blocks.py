import pytest
import torch

from benchmarks.pretended_gpu import pretended_gpu
from pseudoris.workers.captions.cached_blocks import attend


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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

"""A residual image tower computes the same without its norms, with one pooled output, in either layout."""

from __future__ import annotations

import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from pseudoris.workers.filtering.clip_embedder import AttentionPool, memory_format, simplify_tower

CPU = torch.device("cpu")


@pytest.fixture
def tower():
    torch.manual_seed(0)
    tower = ModifiedResNet((1, 2, 1, 1), output_dim=16, heads=4, image_size=64, width=8).eval().requires_grad_(False)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                values.uniform_(0.5, 1.5)
    return tower


def test_a_simplified_tower_embeds_as_before(tower):
    crops = torch.rand(3, 3, 64, 64)
    expected = tower(crops)
    simplify_tower(tower)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    assert isinstance(tower.attnpool, AttentionPool)
    torch.testing.assert_close(tower(crops), expected, rtol=1e-5, atol=1e-6)


def test_the_layout_changes_nothing_but_time(tower):
    crops = torch.rand(3, 3, 64, 64)
    expected = tower(crops)
    layout = memory_format(tower, CPU)
    assert layout is torch.channels_last
    found = tower.to(memory_format=layout)(crops.to(memory_format=layout))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_another_tower_stays_as_it_is():
    tower = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    simplify_tower(tower)
    assert isinstance(tower[1], nn.BatchNorm2d)
    assert memory_format(tower, CPU) is torch.contiguous_format

import torch
import torch.nn.functional as F

from benchmarks.counting import count
from workers.linear import PackedLinear, linear


def test_a_product_is_two_operations_a_multiplication_and_moves_its_operands_and_its_result():
    a, b = torch.ones(10, 20), torch.ones(20, 30)
    assert count(lambda: a @ b) == (2 * 10 * 20 * 30, 4 * (10 * 20 + 20 * 30 + 10 * 30))


def test_packed_weights_count_as_plain_ones():
    weight, x = torch.ones(300, 256), torch.ones(7, 256)
    packed = linear(weight, None)
    assert isinstance(packed, PackedLinear)
    assert count(lambda: packed(x)) == (2 * 7 * 256 * 300, 4 * (7 * 256 + 256 * 300 + 7 * 300))


def test_attention_on_a_cpu_is_counted():
    queries, keys = torch.ones(2, 4, 5, 16), torch.ones(2, 4, 9, 16)
    with torch.inference_mode():
        operations, _ = count(lambda: F.scaled_dot_product_attention(queries, keys, keys))
    assert operations == 2 * 2 * (2 * 4 * 5 * 9 * 16)


@torch.inference_mode()
def test_views_move_nothing_and_copies_both_ways():
    x = torch.ones(4, 6)
    assert count(lambda: x.reshape(24).unsqueeze(0).chunk(2, dim=1)[0].contiguous()) == (0, 0)
    assert count(lambda: x.t().contiguous()) == (0, 2 * 4 * 24)
    assert count(lambda: torch.empty(4, 6).copy_(x)) == (0, 2 * 4 * 24)


@torch.inference_mode()
def test_a_gather_reads_the_rows_it_takes_and_not_the_table():
    table, index = torch.ones(1000, 6), torch.tensor([1, 5])
    assert count(lambda: table.index_select(0, index)) == (0, 2 * 8 + 2 * 4 * 12)

"""`pseudoris annotate` with a table of instances: which of SAM's masks are objects is another program's opinion."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.builders.command import OPTIONS, pseudoris

pytestmark = pytest.mark.ray


def masks_of(out) -> list[dict]:
    return ds.dataset(out / "masks").to_table().to_pylist()


@pytest.mark.long
def test_the_instances_choose_their_masks_and_each_says_which_row_chose_it(tiny_run, tmp_path):
    path, out = tmp_path / "instances", tmp_path / "out"
    pq.write_table(ds.dataset(tiny_run.out / "masks").to_table(), path)
    prior = ("kind=table", f"path={path}", "match=iou")
    options = [word for each in prior for word in ("--set", f"masks.prior.{each}")]
    done = pseudoris("annotate", "--preset=tiny", str(tiny_run.source), str(out), *OPTIONS, *options)
    assert done.returncode == 0, done.stderr
    chosen, before = masks_of(out), masks_of(tiny_run.out)
    # SAM proposes the same again, so each instance finds its own mask.
    assert {row["mask_id"]: row["segmentation"] for row in chosen} == {
        row["mask_id"]: row["segmentation"] for row in before
    }
    assert {row["prior"] for row in chosen} == {f"table:{row}" for row in range(len(before))}
    assert pseudoris("verify", str(out)).returncode == 0


@pytest.mark.long
def test_in_paper_a_mask_that_two_instances_choose_is_there_twice_and_says_nothing_distinctive(tiny_run, tmp_path):
    path, out = tmp_path / "instances", tmp_path / "out"
    masks = ds.dataset(tiny_run.out / "masks").to_table()
    pq.write_table(pa.concat_tables([masks, masks]), path)
    prior = ("kind=table", f"path={path}", "match=iou", "duplicates=keep", "untouched=first_mask")
    options = [word for each in prior for word in ("--set", f"masks.prior.{each}")]
    done = pseudoris("annotate", "--preset=tiny", str(tiny_run.source), str(out), *OPTIONS, *options)
    assert done.returncode == 0, done.stderr
    chosen = masks_of(out)
    assert len({row["mask_id"] for row in chosen}) == len(chosen) == 2 * len(masks)
    assert {row["prior"] for row in chosen} == {f"table:{row}" for row in range(len(chosen))}
    expressions = ds.dataset(out / "expressions").to_table().to_pylist()
    assert expressions
    assert max(row["distinctiveness"] for row in expressions) == 1.0
    assert not any(row["kept"] for row in expressions)
    assert pseudoris("verify", str(out)).returncode == 0

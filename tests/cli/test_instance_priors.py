"""`pseudoris annotate` with a table of instances: which of SAM's masks are objects is another program's opinion."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.builders.command import OPTIONS, pseudoris

pytestmark = [pytest.mark.ray, pytest.mark.long]


def masks_of(out) -> list[dict]:
    return ds.dataset(out / "masks").to_table().to_pylist()


def chosen_by(tiny_run, tmp_path, instances: pa.Table, *settings: str) -> Path:
    """Return a run whose masks these instances chose; it verifies, and each mask says which row chose it."""
    path, out = tmp_path / "instances", tmp_path / "out"
    pq.write_table(instances, path)
    options = [f"--set=masks.prior.{each}" for each in ("kind=table", f"path={path}", "match=iou", *settings)]
    done = pseudoris("annotate", "--preset=tiny", str(tiny_run.source), str(out), *OPTIONS, *options)
    assert done.returncode == 0, done.stderr
    assert {row["prior"] for row in masks_of(out)} == {f"table:{row}" for row in range(len(instances))}
    assert pseudoris("verify", str(out)).returncode == 0
    return out


def test_the_instances_choose_their_masks_and_each_says_which_row_chose_it(tiny_run, tmp_path):
    masks = ds.dataset(tiny_run.out / "masks").to_table()
    out = chosen_by(tiny_run, tmp_path, masks)
    # SAM proposes the same again, so each instance finds its own mask.
    chosen, before = ({row["mask_id"]: row["segmentation"] for row in masks_of(each)} for each in (out, tiny_run.out))
    assert chosen == before


def test_in_paper_a_mask_that_two_instances_choose_is_there_twice_and_says_nothing_distinctive(tiny_run, tmp_path):
    masks = ds.dataset(tiny_run.out / "masks").to_table()
    both = pa.concat_tables([masks, masks])
    out = chosen_by(tiny_run, tmp_path, both, "duplicates=keep", "untouched=first_mask")
    assert len({row["mask_id"] for row in masks_of(out)}) == 2 * len(masks)
    expressions = ds.dataset(out / "expressions").to_table().to_pylist()
    assert expressions
    assert max(row["distinctiveness"] for row in expressions) == 1.0
    assert not any(row["kept"] for row in expressions)

"""Whether Select's choices are held against the right masks."""

from experiments.ppt.ablation_jobs import mean_select, select_figures
from experiments.ppt.ablation_rows import AblationRuns
from pseudoris.training.ppt.curriculum import write_chosen
from tests.interchange.dataset.builders import build_run
from tests.training.ppt.builders import RECIPE

UNDECIDED = {**RECIPE, "rival_mask_id": None, "kept": False}


def test_a_choice_is_right_where_it_is_the_target_and_others_are_not_judged(tmp_path) -> None:
    rows = [(mask, text, UNDECIDED) for text in ("the first", "the second", "all") for mask in (0, 5)]
    h = build_run(tmp_path / "h", num_shards=1, per_shard=1, rows=lambda number: rows, recipe="pairs")
    said = [(0, "the first", {}), (5, "the second", {}), (0, "all", {}), (5, "all", {})]
    truth = build_run(tmp_path / "truth", num_shards=1, per_shard=1, rows=lambda number: said)
    made = AblationRuns("", "", h.location.root, truth.location.root, "", None)
    for seed, chosen in enumerate([[0, 0, 1], [-1, 1, 1]]):
        folder = tmp_path / f"{seed}" / "03-ris_joint"
        folder.mkdir(parents=True)
        write_chosen(folder, chosen, min_iou=0.5)

    found = mean_select([select_figures(tmp_path / name, made) for name in ("0", "1")])

    # "all" has two targets. One training decides both others, and one of them rightly; the other one of one.
    assert found == {
        "pairs": 2,
        "reachable": 1.0,
        "rounds": [{"name": "03-ris_joint", "decided": 0.75, "right": 0.75}],
    }

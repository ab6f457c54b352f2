"""The paper's order in other worlds and lengths than the ablation's own, from the records of finished trainings.

Nothing is measured here. A trial is measured like the ablation itself: `python -m experiments.ppt --world crowded`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from experiments.ppt.ablation_jobs import RECORDS, jobs_of, measure
from experiments.ppt.ablation_rows import TRAININGS, WHOLE, Sizes
from experiments.ppt.ablation_table import as_json

TRIALS: Final[dict[str, Sizes]] = {
    "crowded": replace(WHOLE, world="crowded"),
    "twice as long": replace(WHOLE, epochs_factor=2 * WHOLE.epochs_factor),
    # As its prediction says (experiments/predictions.md). Nothing draws this world any more: its records stay.
    "touching": replace(WHOLE, world="touching", epochs_factor=0.1),
}


def trials(records: Path = RECORDS) -> list[dict[str, Any]]:
    """Return of each trial its name, the rows that it measured and the steps of the paper's order between them.

    A trial without a training is left out. Of the trainings that there are, the seeds count that each of them has.
    """
    found = []
    for name, sizes in TRIALS.items():
        done = _done(sizes, records)
        if done:
            result = as_json(done, sizes)
            found.append({"name": name, **{part: result[part] for part in ("ablation", "order")}})
    return found


def _done(sizes: Sizes, records: Path) -> list[dict[str, Any]]:
    """The records of the paper's rows; none where nothing was trained."""
    papers = {each.name for each in TRAININGS if each.is_paper}
    jobs = [job for job in jobs_of(sizes, Path(), records, is_pseudo=False) if job.is_finished]
    seeds: defaultdict[str, set[int]] = defaultdict(set)
    for job in jobs:
        if job.name in papers:
            seeds[job.name].add(job.seed)
    if not seeds:
        return []
    # Row 1 trains nothing: its record of any length stands for all.
    usual = jobs_of(replace(sizes, epochs_factor=WHOLE.epochs_factor), Path(), records, is_pseudo=False)
    floors = [job for job in (*jobs, *usual) if job.name == "floor" and job.is_finished]
    shared = set.intersection(*seeds.values())
    return [measure(job) for job in (*(job for job in jobs if job.name in papers and job.seed in shared), *floors[:1])]

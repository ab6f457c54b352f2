import io
import json

from rich.console import Console

from benchmarks.oracle.evaluation import TRUTH_SUFFIX, EvaluationOptions
from benchmarks.oracle.report import HEADLINE, figures, report_table
from training.evaluation.bootstrap import ImageBootstrap


def bootstrap():
    scene = {name + suffix: (3.0, 4.0) for name in HEADLINE for suffix in ("", TRUTH_SUFFIX)}
    return ImageBootstrap([scene | {"accuracy_beam": (1.0, 4.0), "seconds_per_image": (0.5, 1.0)}] * 3)


def test_the_json_holds_every_figure_its_interval_and_the_steps():
    report = json.loads(json.dumps(figures(bootstrap())))
    for name in HEADLINE:
        assert report[name + TRUTH_SUFFIX] == 0.75
        assert len(report[f"{name}_interval"]) == 2
    assert report["seconds_per_image"] == 0.5
    assert report["accuracy_distinctive_minus_beam"] == 0.5


def test_the_table_shows_both_kinds_of_mask_and_the_gain_of_each_step():
    console = Console(file=io.StringIO(), width=140)
    console.print(report_table(bootstrap(), EvaluationOptions(num_scenes=3)))
    text = console.file.getvalue()
    assert "3 test scenes" in text
    assert all(name in text for name in HEADLINE)
    assert "+0.500" in text

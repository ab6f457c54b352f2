"""Measures the quality of the output; speed is measured in `evidence/benchmarks/`. Neither is installed.

| command | measures |
| --- | --- |
| `python -m evidence.experiments.quality` | every figure of quality.md that is still measured, and the page |
| `python -m evidence.experiments.oracle` | masks and captions on fresh scenes: the model card's figures |
| `python -m evidence.experiments.scene_clip` | where the scene CLIP points: the model card's figures |
| `python -m evidence.experiments.composing.posterior_fit` | fits the composer's posterior on development scenes |
| `python -m evidence.experiments.quality.scene_runs OUT` | writes scenes as a run, as simulated annotators do |
| `python -m evidence.experiments.ppt` | PPT's ablation in miniature: docs/records/ppt.json and the table of ppt.md |
| `python -m evidence.experiments.ppt.prediction_picture FILE` | draws docs/records/ppt-predict.jpg |
| `python -m evidence.experiments.audits` | simulated audits: coverage and width of intervals; audits.md |
| `python -m evidence.experiments.ppt_data FOLDER` | PPT's pseudo-labels against the truth, with a contact sheet |
| `python -m evidence.experiments.loaders FOLDER` | others' loaders read the exports: a table of exports.md |

`listener/` has no command: it measures the part `listening` of the quality page. docs/guides/composing.png was drawn by
`evidence/experiments/composing/composed_picture.py` of commit b51cbc1f.
"""

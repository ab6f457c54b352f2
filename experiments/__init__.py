"""Measures the quality of the output; speed is measured in `benchmarks/`. Neither is installed.

| command | measures |
| --- | --- |
| `python -m experiments.quality` | every figure that is still measured of docs/records/quality.md, and the page |
| `python -m experiments.oracle` | masks and captions on fresh scenes: the model card's figures |
| `python -m experiments.scene_clip` | where the scene CLIP points: the model card's figures |
| `python -m experiments.composing.posterior_fit` | fits the weights of the composer's posterior on development scenes |
| `python -m experiments.quality.scene_runs OUT` | writes scenes as a run, as simulated annotators describe them |
| `python -m experiments.ppt` | PPT's ablation in miniature: docs/records/ppt.json and the table of ppt.md |
| `python -m experiments.ppt.prediction_picture FILE` | draws docs/records/ppt-predict.jpg |
| `python -m experiments.audits` | simulated audits: coverage and width of intervals; tables of docs/records/audits.md |
| `python -m experiments.ppt_data FOLDER` | PPT's pseudo-labels against the truth, with a contact sheet |
| `python -m experiments.loaders FOLDER` | others' loaders read the exports: a table of docs/records/exports.md |

`listener/` has no command: it measures the part `listening` of the quality page. docs/guides/composing.png was drawn by
`experiments/composing/composed_picture.py` of commit b51cbc1f.
"""

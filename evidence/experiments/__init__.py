"""Measures the quality of the output; speed is measured in `evidence/benchmarks/`. Neither is installed.

| command | measures |
| --- | --- |
| `python -m evidence.experiments.quality` | every figure of quality.md that is still measured, and the page |
| `python -m evidence.experiments.oracle` | masks and captions on fresh scenes: the model card's figures |
| `python -m evidence.experiments.scene_clip` | where the scene CLIP points: the model card's figures |
| `python -m evidence.experiments.composing.posterior_fit` | fits the composer's posterior on development scenes |
| `python -m evidence.experiments.quality.scene_runs OUT` | writes scenes as a run, as simulated annotators do |
| `python -m evidence.experiments.ppt` | PPT's ablation in miniature: ppt.json and the table of ppt.md |
| `python -m evidence.experiments.ppt.prediction_picture FILE` | draws docs/records/appendix/ppt-predict.jpg |
| `python -m evidence.experiments.audits` | simulated audits: coverage and width of intervals; audits.md |
| `python -m evidence.experiments.ppt_data FOLDER` | PPT's pseudo-labels against the truth, with a contact sheet |
| `python -m evidence.experiments.loaders FOLDER` | others' loaders read the exports: a table of exports.md |
| `python -m evidence.experiments.conformance` | papers against code: conformance.md; `measure` counts arms |
| `python -m evidence.experiments.segmenter RUN... --out FOLDER` | trains the segmenter; `.predictions` asks it |
| `python -m evidence.experiments.english_reading LABELS` | how well captions are read: a table of composing.md |
| `python -m evidence.experiments.method_example` | prints docs/records/method.svg; its tables are of method.md |
| `python -m evidence.experiments.audits.drawn_run` | audits of a composed run of drawn scenes; audits.md |
| `python -m evidence.experiments.composing.any_captioner` | the composer with captioners it was not fitted to |
| `python -m evidence.experiments.composing.groups_and_absences` | how often composed groups and absences are right |
| `python -m evidence.experiments.composing.many_names` | composing where a thing has several names |
| `python -m evidence.experiments.composing.photograph_settings` | settings of photographs on drawn scenes |
| `python -m evidence.experiments.composing.photographs` | composing of photographs, by verdicts; no weights |

`make quality` and `make conformance` run two of them. `process_pool` runs the jobs of most; by `verdicts` the tables of
`ppt` and `quality` decide what a difference says. Weights are fitted and bounds chosen on development scenes; both
are judged on test scenes that no choice was made on. predictions.md says before a first result what it would mean.

`listener/` has no command: it measures the part `listening` of the quality page. docs/guides/composing.png was drawn by
`experiments/composing/composed_picture.py` of commit b51cbc1f.
"""

"""The segmenter: a model that draws a mask of its own, where `pseudoris train student` chooses one of SAM's.

It shows what the quality of a run's masks costs, which a chooser hides. `ppt.ablation_jobs` and `examples.pseudo_ris`
train it. `__main__` and `predictions` use `segmenter_training`, this `segmenter_learner`, which trains the layers of
`segmenter_model`. A folder is bound to its settings (`decisive` in `segmenter_config`) and to the digest of its towers.

| command | |
| --- | --- |
| `python -m evidence.experiments.segmenter RUN... --out FOLDER` | trains it |
| `python -m evidence.experiments.segmenter.predictions FOLDER TRUTH FILE.jsonl` | answers a truth |
"""

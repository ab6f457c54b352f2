"""The segmenter: a model that draws a mask of its own, where `pseudoris train student` chooses one of SAM's.

It shows what the quality of a run's masks costs, which a chooser hides. Experiments and `examples.pseudo_ris` train it.

| command | |
| --- | --- |
| `python -m evidence.experiments.segmenter RUN... --out FOLDER` | trains it |
| `python -m evidence.experiments.segmenter.predictions FOLDER TRUTH FILE.jsonl` | answers a truth |
"""

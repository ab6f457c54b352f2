"""Measures speed: both versions in one run, median of several, as a ratio, with peak memory.

| command | measures |
| --- | --- |
| `python -m benchmarks` | all parts that run on the embedded models, as `make bench` |
| `python -m benchmarks.end_to_end` | images to scored expressions, against what the authors' scripts do |
| `python -m benchmarks.captioner` | captions of one image, against the authors' loop |
| `python -m benchmarks.masks` | mask generation, against Meta's generator |
| `python -m benchmarks.crops` | all crops of an image, against Pillow |
| `python -m benchmarks.filter` | the filter, beside the captioner and against one that shares nothing |
| `python -m benchmarks.listener_cost` | what the listener adds to captioning |
| `python -m benchmarks.gpu_session` | the first ten minutes of a GPU, its profile first; `make gpu` |
| `python -m benchmarks.gpu_limits` | what stages ask of a GPU, counted without one, and the limit, modelled |
| `python -m benchmarks.pipeline` | a run on Ray, against the same work in one process |
| `python -m benchmarks.scale` | what a shard costs the driver |
| `python -m benchmarks.dataset` | a run as a torch dataset, against CRIS's files and LMDB |

Records are in `benchmarks/results/`, the tables in docs/records/performance.md and scale.md. Quality is measured in
`experiments/`.
"""

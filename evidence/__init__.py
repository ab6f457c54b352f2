"""What proves the rooms: benchmarks (speed), experiments (quality), recipes (what made the tiny models).

| folder | what stands there | `make` target |
| --- | --- | --- |
| `benchmarks/` | speed and memory, beside other implementations | `bench`; `gpu` runs `gpu_session` alone |
| `experiments/` | quality, by the truth of drawn scenes; predictions.md | `quality`, `conformance`; others by command |
| `recipes/` | trainings of the tiny models, and drawn data for them and for experiments | `weights` |

The docstring of each package lists its commands. evidence/ is not installed, and nothing that is installed imports it;
tests and `examples/` do. Records (`results/`) are committed, and figures of docs/records are made of them: a figure is
measured again by its command, never mended by hand.
"""

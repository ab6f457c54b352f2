"""Makes what is shipped or learnt from, out of the synthetic world. It is not installed.

| command | makes |
| --- | --- |
| `python -m evidence.recipes` | the tiny models, trained from scratch, as `make weights` |
| `python -m evidence.recipes.shipped_weights OUT` | their files in the package, with digests in presets and card |
| `python -m evidence.recipes.llava_recipe OUT` | a tiny vision-language model, a model folder; needs `pseudoris[hf]` |
| `python -m evidence.recipes.object_centric FOLDER` | images of one object each, which `pseudoris ppt objects` reads |
| `python -m evidence.recipes.kinds [WORDNET]` | `primitives/kinds.tsv`, from WordNet 3.0 and `kinds.yaml` |

`__main__` orders the phases of `training_plan`; these call `sam_recipe`, `caption_recipe` and `scene_clip_recipe`, all
on the loop of `optimiser`. Data: `scene_shards` (also for benchmarks and experiments), `caption_crops`, `scene_texts`,
`caption_styles`, `caption_vocabulary`. Trainings see split train alone. Every draw follows from a seed and a step, so
that an interrupted training ends as an uninterrupted one; other texts, draws or defaults make other weights than the
shipped ones. `simulated_expressions` says what an annotator would say of the objects of a scene, for experiments.
"""

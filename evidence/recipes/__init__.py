"""Makes what is shipped or learnt from, out of the synthetic world. It is not installed.

| command | makes |
| --- | --- |
| `python -m evidence.recipes` | the tiny models, trained from scratch |
| `python -m evidence.recipes.shipped_weights OUT` | their files in the package, with digests in presets and card |
| `python -m evidence.recipes.llava_recipe OUT` | a tiny vision-language model, a model folder; needs `pseudoris[hf]` |
| `python -m evidence.recipes.object_centric FOLDER` | images of one object each, which `pseudoris ppt objects` reads |

`simulated_expressions` says what an annotator would say of the objects of a scene.
"""

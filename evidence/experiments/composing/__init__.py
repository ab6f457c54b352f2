"""How often composed expressions are correct, how many they add, and what the composer's weights are worth.

`composed_figures` measures the part `composition` of the quality page. Commands: `posterior_fit` fits the weights, to
development scenes alone; `any_captioner` (with `squeezed_tables`), `many_names` and `groups_and_absences` measure for
composing.md; `photographs` (with `photograph_sheets`) tries it on photographs that have captions and verdicts,
and fits nothing. `captioners/` has models of no preset, which `python -m evidence.recipes --only MODEL` trained.
"""

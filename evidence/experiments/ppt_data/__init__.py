"""Measures PPT's pseudo-labels on the synthetic world, where the truth is known.

`__main__` makes data by the code of `pseudoris ppt`; `pseudo_label_figures`, also for `ppt.ablation_jobs`, compares
them with a truth that no recipe reads; `contact_sheet` draws them.
"""

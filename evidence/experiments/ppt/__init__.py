"""PPT's ablation in miniature: the paper's nine rows on the synthetic world.

`__main__` measures `ablation_jobs` on the runs of `ablation_rows`, and `ablation_table` writes ppt.json
and ppt.md in docs. A record in results/ppt has settings and sizes in its name: others are measured anew. Trainings read
pseudo-masks, never the true ones, and are asked held-out scenes. `prediction_picture` is a command by itself.
"""

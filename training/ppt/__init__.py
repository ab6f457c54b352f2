"""PPT: curriculum point prompting (Dai and Yang, CVPR 2024), a weakly supervised learner of referring segmentation.

For `cli`, `training`, examples and experiments. CLIP and SAM stay frozen: only `PointGenerator` is trained.
"""

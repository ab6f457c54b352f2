"""PPT: curriculum point prompting (Dai and Yang, CVPR 2024), a weakly supervised learner of referring segmentation.

Called by `cli`, `training/evaluation` and `examples/ppt`. CLIP and SAM stay frozen: only `PointGenerator` is trained.
"""

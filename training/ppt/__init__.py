"""PPT: curriculum point prompting (Dai and Yang, CVPR 2024), a weakly supervised learner of referring segmentation."""

"""A compact supervised model of referring image segmentation, trained on a run's expressions or a human's."""

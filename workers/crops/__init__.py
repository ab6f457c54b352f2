"""Crops of images: which box and scale, resampled in tiles of fixed shapes, and images decoded ahead of their use.

`captions`, `filtering`, `training` and `recipes` cut crops here. A crop's bits must not depend on what is beside it.
"""

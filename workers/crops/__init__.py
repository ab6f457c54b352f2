"""Crops of images: which box and scale, resampled in tiles of fixed shapes, and images decoded ahead of their use.

`captions`, `filtering`, `training`, `evidence/recipes` cut crops here. A crop's bits depend on nothing beside it.
"""

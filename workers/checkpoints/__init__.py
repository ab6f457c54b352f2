"""Presets of architectures and weights: what to build, where its weights come from, and their digest."""

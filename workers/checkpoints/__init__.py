"""Builds models; finds, verifies and loads their weights. For the stages, `pipeline`, `training`, `cli`, `evidence`.

`weight_files` is the entry: from a `weights.uri` to a local file and its digest. Behind it, `weight_cache` is the table
of what others publish and the folder of downloaded files, `download` the way into that folder, and `weight_headers` the
check of a file that costs no torch. `model_folder` is a folder of `transformers`.

Models are built by `openclip` and `masks.sam_model`, with the numbers of `model_configs` and `sam_architectures` and
the tensors that `tensor_files` reads; by `hf_models` from a folder. These import torch, except for the two with
numbers. The modules of the first paragraph must not: a driver asks for digests, and torch takes seconds to load.
"""

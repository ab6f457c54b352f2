"""Builds models, and finds, verifies and loads their weights.

`weight_files` is the door: it turns a `weights.uri` into a file of this machine and its digest, or into an error that
says how to get the file. Behind it, `published_weights` knows the files of the presets, `weight_cache` is the folder
and the way into it, `download` brings bytes, and `weight_headers` sees whether a file can be loaded. `model_folder`
does the same for a folder of `transformers`.

`tensor_files` loads a file into a module. `openclip` and `masks.sam_model` build the modules, with the numbers of
`model_configs` and `sam_architectures`; `hf_models` opens a folder.
"""

"""The models of a configuration on fresh scenes, judged by the oracle: what the model card states."""

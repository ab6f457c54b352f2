"""The models at work: plain torch, no Ray; importable and benchmarkable without a cluster."""

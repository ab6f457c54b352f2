"""PPT's ablation in miniature: the paper's nine rows on the synthetic world."""

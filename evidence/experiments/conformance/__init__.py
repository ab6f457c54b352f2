"""The page of conformance: what the papers and scripts say, what the code does, and what each difference changes."""

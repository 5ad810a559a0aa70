"""Task files of our own for lm-evaluation-harness: a YAML each, and the functions that it names."""

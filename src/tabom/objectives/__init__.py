"""The equations: contexts, target sets, terms, the gathered head, and presets. Torch only."""

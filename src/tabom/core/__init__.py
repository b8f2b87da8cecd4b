"""Errors, keyed randomness, atomic files, manifests and configuration. No torch."""

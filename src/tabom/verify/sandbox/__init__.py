"""Where programs that a model wrote are run: namespaces, limits, a clock, and no way out."""

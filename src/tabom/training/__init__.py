"""Settings, data set, step module, trainer and model card."""

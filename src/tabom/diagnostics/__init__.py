"""What decoding trajectories look like: arrays in, arrays out; no plotting, no files."""

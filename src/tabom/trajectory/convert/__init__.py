"""Trajectory files of others, read into ours and written from ours."""

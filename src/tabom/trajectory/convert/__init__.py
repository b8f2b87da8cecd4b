"""Trajectory files of others, read into ours, and ours written as the authors' own.

A new format is one file here with `read(cells) -> Trajectory`, and its name in FORMATS; a format
whose rows stand for several trajectories also has `expand(row) -> rows`.
"""

FORMATS = ("tabom_jsonl", "step_map", "d3llm")

"""Trajectory files of others, read into ours, and ours written as the authors' own."""

NATIVE = "native"  # the folder of a finished collection
NAMES = (NATIVE, "tabom_jsonl", "step_map", "d3llm")

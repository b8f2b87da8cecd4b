"""From prompts to a store of trajectories: plan, decode, write durably, resume."""

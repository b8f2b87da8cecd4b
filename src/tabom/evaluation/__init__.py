"""Accuracy in and out of domain, with intervals, and the comparison of arms."""

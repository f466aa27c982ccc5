"""Costs: what a plan leaves of MACs, parameters and time."""

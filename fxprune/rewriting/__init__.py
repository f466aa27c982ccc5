"""Rewriting: an ordinary smaller model from a model and a plan."""

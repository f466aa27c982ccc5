"""Analysis: from a recorded graph to the groups of channels that must live or die together."""

"""Plan: which channels stay, as a value, and its file."""

"""Statistics: what layers read and give on data."""

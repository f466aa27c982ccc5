"""The one exception that the zoo raises for what its user can put right."""


class ZooError(Exception):
    """Data, weights or training went wrong in a way that the message tells how to remedy."""

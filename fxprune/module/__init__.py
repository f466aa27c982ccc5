"""Module: the caller's `nn.Module`: run it, read it, change it, and give it back exactly as it was."""

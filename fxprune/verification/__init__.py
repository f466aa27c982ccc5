"""Verification: the pruned model equals the masked one."""

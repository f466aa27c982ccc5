"""Storage: files that are written whole or not at all, and tables for notebooks."""

"""Labels through the graph: what each dim carries, and what each op couples."""

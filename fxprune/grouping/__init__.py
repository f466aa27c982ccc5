"""From labels to groups: components, balanced splits, and why dims must stay."""

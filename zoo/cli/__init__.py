"""The commands of ``python -m zoo``, one module each way of training; ``options`` holds what they share."""

"""What computes a step: one folder a kind of machine, each with its own door."""

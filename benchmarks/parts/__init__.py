"""What is measured in a process of its own; each prints its measurements as one line of JSON."""

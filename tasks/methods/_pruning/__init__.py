"""What pruning takes out, and how what is left recovers."""

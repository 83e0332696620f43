"""What tuneline costs, measured side by side with what users would run instead: `python -m benchmarks`."""

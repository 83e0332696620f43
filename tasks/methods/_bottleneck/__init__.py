"""Bottleneck adapters and their fusion: modules, shapes, the blocks of each architecture, folding."""

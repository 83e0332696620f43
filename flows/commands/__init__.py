"""One file per command of `tuneline`: what it prints."""

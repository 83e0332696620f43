"""Random SIGKILLs of random processes over whole pipelines, and what must be so afterwards."""

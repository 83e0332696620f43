"""The fault list, done to the plain script: what happens to a user who has nothing else."""

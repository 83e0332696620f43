"""From a registered version to the champion: gate, approval, switch, rollback, and the log of all of it.

Light: nothing here imports MLflow or torch by itself.
"""

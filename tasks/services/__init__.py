"""Postgres, MLflow, Prefect and a worker as processes of one machine. They are started, never imported."""

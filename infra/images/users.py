#!/usr/bin/env python3
"""Make MLflow's user for workers, or give it the password that the secret now holds.

MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD are the admin's; WORKER_USERNAME and WORKER_PASSWORD what it shall be.
"""

import os

from mlflow.exceptions import RestException
from mlflow.server import get_app_client

client = get_app_client("basic-auth", os.environ["MLFLOW_TRACKING_URI"])
name, password = os.environ["WORKER_USERNAME"], os.environ["WORKER_PASSWORD"]
try:
    client.create_user(name, password)
except RestException as error:
    if error.error_code != "RESOURCE_ALREADY_EXISTS":
        raise
    client.update_user_password(name, password)

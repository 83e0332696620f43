#!/bin/sh
# Bring databases to the schema of the installed version: migrate mlflow|prefect …
# On an empty database it makes the tables, on a present one it does nothing. Take a backup first: there is no way back
# but a restore.
set -eu
for one in "$@"; do
    case $one in
        mlflow)
            mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"
            python -m mlflow.server.auth db upgrade --url "$(sed -n 's/^database_uri = //p' "$MLFLOW_AUTH_CONFIG_PATH")"
            ;;
        prefect) prefect server database upgrade --yes ;;
        *) echo "migrate: $one: mlflow or prefect" >&2; exit 2 ;;
    esac
done

#!/usr/bin/env bash
# Put a backup back: restore TIME, the name of a folder under $BACKUPS (`restore latest`: the newest)
# MLflow and Prefect must be stopped: their connections are cut. Every dump is verified and read into a database of its
# own before anything is replaced; a failure leaves the present databases as they are. Artifacts are copied back, and
# those that are newer than the backup stay.
# PGHOST, PGPORT, PGUSER, PGPASSWORD: Postgres' superuser. OBJECTS: the bucket, as rclone calls it.
set -euo pipefail
backups=${BACKUPS:-/backups}
databases=(mlflow mlflow_auth prefect)
[ "$#" -eq 1 ] || { echo "usage: restore TIME|latest" >&2; exit 2; }
name=$1
if [ "$name" = latest ]; then
    name=$(find "$backups" -mindepth 1 -maxdepth 1 -type d -name '2*Z' -printf '%f\n' | sort | tail -n 1)
fi
[ -s "$backups/$name/SHA256SUMS" ] || { echo "restore: $backups/$name holds no finished backup" >&2; exit 2; }
(cd "$backups/$name" && sha256sum --check --strict --quiet SHA256SUMS) || exit 40

export PGOPTIONS="-c client_min_messages=warning"
sql() { psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname postgres "$@"; }
sql --file "${ROLES:-/usr/local/share/roles.sql}"
for database in "${databases[@]}"; do
    sql --command "DROP DATABASE IF EXISTS ${database}_restored WITH (FORCE)" \
        --command "CREATE DATABASE ${database}_restored TEMPLATE template0 ENCODING 'UTF8'"
    pg_restore --exit-on-error --single-transaction --dbname "${database}_restored" "$backups/$name/$database.dump"
done
rclone copy --config /dev/null --checksum "$backups/objects" "$OBJECTS"
for database in "${databases[@]}"; do
    owner=$(sql --tuples-only --no-align --command \
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '$database'")
    sql --command "DROP DATABASE $database WITH (FORCE)" \
        --command "ALTER DATABASE ${database}_restored RENAME TO $database" \
        --command "ALTER DATABASE $database OWNER TO $owner"
done
sql --file "${ROLES:-/usr/local/share/roles.sql}"
echo "restored $name"

#!/usr/bin/env bash
# Copy the databases and the artifacts: backup
# Into $BACKUPS/<time>: one dump per database, SHA256SUMS last, so that a folder without it is no backup. Into
# $BACKUPS/objects: every artifact; what a later backup overwrites there moves to replaced/ of that backup.
# Databases come first: what their rows name was uploaded before, or is newer than the dump.
# PGHOST, PGPORT, PGUSER, PGPASSWORD: Postgres' superuser. OBJECTS: the bucket, as rclone calls it.
set -euo pipefail
umask 077
backups=${BACKUPS:-/backups}
keep=${BACKUPS_KEEP:-14}
mkdir -p "$backups/objects"
while # two that begin within a second take two names
    started=$(date -u +%Y%m%dT%H%M%SZ)
    folder=$backups/$started
    unfinished=$backups/.unfinished-$started
    [ -e "$folder" ] || [ -e "$unfinished" ]
do sleep 1; done
mkdir "$unfinished"
trap 'rm -rf "$unfinished"' EXIT

for database in mlflow mlflow_auth prefect; do
    pg_dump --format=custom --file="$unfinished/$database.dump" "$database"
done
rclone copy --config /dev/null --checksum --backup-dir "$unfinished/replaced" "$OBJECTS" "$backups/objects"
(cd "$unfinished" && sha256sum -- *.dump >SHA256SUMS)
sync "$unfinished"/*
mv --no-target-directory "$unfinished" "$folder"
sync "$backups"

find "$backups" -mindepth 1 -maxdepth 1 -type d -name '2*Z' | sort | head -n "-$keep" | xargs -r rm -rf --
echo "$folder"

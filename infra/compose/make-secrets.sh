#!/bin/sh
# Make the secrets that are missing, one file each: make-secrets.sh [FOLDER]   (default: ./secrets)
# Present ones stay, so that deleting a file and running this again is a rotation (docs/runbook.md). The folder is the
# user's alone; the files in it can be read by all, because containers with uids of their own get them as they are.
set -eu
folder=${1:-secrets}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { # NAME TEXT: written whole or not at all
    printf '%s\n' "$2" >"$folder/.$1"
    chmod 444 "$folder/.$1"
    mv -f "$folder/.$1" "$folder/$1"
}
missing() { [ ! -s "$folder/$1" ]; }
key() { sed -n "s/^$1 = //p" "$folder/$2"; }

for name in postgres mlflow-database prefect-database mlflow-admin mlflow-worker mlflow-key; do
    if missing "$name"; then keep "$name" "$(random)"; fi
done
if missing prefect-auth; then keep prefect-auth "admin:$(random)"; fi
for name in s3-mlflow s3-backup; do
    if missing "$name"; then
        keep "$name" "[default]
aws_access_key_id = ${name#s3-}
aws_secret_access_key = $(random)"
    fi
done

identity() { # NAME ACTIONS: as SeaweedFS reads it
    printf '{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": [%s]}' \
        "${1#s3-}" "$(key aws_access_key_id "$1")" "$(key aws_secret_access_key "$1")" "$2"
}
keep s3-identities.json "{\"identities\": [
$(identity s3-mlflow '"Read:mlflow", "Write:mlflow", "List:mlflow", "Tagging:mlflow"'),
$(identity s3-backup '"Admin"')
]}"

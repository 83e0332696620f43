#!/bin/sh
# Run a command with the secrets of this container in its environment: from-secrets COMMAND [ARGUMENT …]
# Each file under /run/secrets whose name is that of a variable becomes that variable, so that no secret stands in what
# `docker inspect` or a pod's description shows. Files with other names are read where a setting names them.
set -eu
for file in "${SECRETS:-/run/secrets}"/*; do
    name=${file##*/}
    case $name in '' | [!A-Z_]* | *[!A-Z0-9_]*) continue ;; esac
    [ -r "$file" ] || { echo "from-secrets: $file cannot be read by uid $(id -u)" >&2; exit 2; }
    value=$(cat "$file")
    [ -n "$value" ] || { echo "from-secrets: $file is empty" >&2; exit 2; }
    export "$name=$value"
done
exec "$@"

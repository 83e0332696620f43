#!/usr/bin/env bash
# System packages that `make test-all` needs beside Python: a browser for the pages, fonts for Chinese, Slurm for a
# cluster of two nodes on this machine, and Postgres, which `tuneline stack` needs too. Debian and Ubuntu; elsewhere
# install them by the system's own means.
set -euo pipefail

missing=()
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
has chromium || missing+=(chromium fonts-noto-cjk)
has slurmd && has slurmctld && has sbatch || missing+=(slurm-wlm)
has munged || missing+=(munge)
has ip || missing+=(iproute2)
has rclone || missing+=(rclone) # copies artifacts in the test of backups
has postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
if [ "${#missing[@]}" -eq 0 ]; then exit 0; fi
if ! has apt-get; then
    echo "install by hand: ${missing[*]} (this script knows apt-get only)" >&2
    exit 1
fi

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# The tests start daemons of their own with keys of their own: those of the system must not start.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod +x "$policy"
    trap 'as_root rm -f "$policy"' EXIT
fi
install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; }
as_root apt-get update -qq
if [[ " ${missing[*]} " == *" postgresql "* ]]; then
    install postgresql-common # it would make a database cluster for the whole machine; `tuneline stack` makes its own
    as_root sed -i -E 's/^#?\s*create_main_cluster\s*=.*/create_main_cluster = false/' \
        /etc/postgresql-common/createcluster.conf
fi
install "${missing[@]}"

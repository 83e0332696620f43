#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine, for trying `launcher: slurm`: `sudo infra/slurm/start.sh /tmp/slurm`.
# Runs until Ctrl-C. In another shell: export SLURM_CONF=/tmp/slurm/slurm.conf, then sinfo, or tuneline run.
set -euo pipefail
[ "$#" -eq 1 ] || { echo "usage: $0 FOLDER (short: the path of a socket below it has at most 108 bytes)" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "$0: needs root" >&2; exit 1; }
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && folder=$(cd "$1" && pwd)
host=$(hostname -s)

mkdir -p "$folder"/{run,state,log,dev,spool.n1,spool.n2}
chmod 755 "$folder" "$folder/run"
[ -s "$folder/munge.key" ] || head -c 128 /dev/urandom >"$folder/munge.key"
chmod 600 "$folder/munge.key"
for gpu in gpu0 gpu1; do [ -e "$folder/dev/$gpu" ] || mknod "$folder/dev/$gpu" c 1 3; done
if [ -d /sys/fs/cgroup/freezer ]; then proctrack=cgroup cgroup=v1; else proctrack=linuxproc cgroup=v2; fi
for name in slurm.conf gres.conf cgroup.conf; do
    sed -e "s|@CLUSTER@|tuneline|; s|@CONTROLLER@|$host(127.0.0.1)|; s|@CONTROLLER_PORT@|27017|" \
        -e "s|@SLURMD_PORT@|27018|; s|@FOLDER@|$folder|; s|@PROCTRACK@|$proctrack|; s|@CGROUP@|$cgroup|" \
        -e "s|@NODE1@|n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=27021|" \
        -e "s|@NODE2@|n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=27022|" "$here/$name" >"$folder/$name"
done

trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
export SLURM_CONF=$folder/slurm.conf
munged --foreground --key-file="$folder/munge.key" --socket="$folder/run/munge.sock" \
    --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/run/munged.seed" &
until [ -S "$folder/run/munge.sock" ]; do sleep 0.1; done
slurmctld -D -f "$SLURM_CONF" >>"$folder/log/slurmctld.out" 2>&1 &
slurmd -D -N n1 -f "$SLURM_CONF" >>"$folder/log/n1.out" 2>&1 &
slurmd -D -N n2 -f "$SLURM_CONF" >>"$folder/log/n2.out" 2>&1 &
echo "export SLURM_CONF=$SLURM_CONF"
wait -n

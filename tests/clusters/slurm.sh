#!/usr/bin/env bash
# A SLURM of this machine alone, whose every file is in one folder: slurm.sh start DIR, slurm.sh stop DIR. Needs root, and Debian's
# slurm-wlm and munge. Clients find it by SLURM_CONF=DIR/slurm.conf.
#
# It says that it has 4 cores and 2 GPUs, whatever there is. Jobs of the partition "urgent" preempt those of "batch", which are
# told by SIGTERM a minute before they have to go, and queued again.
set -euo pipefail
dir=$(realpath -m "$2")
host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf

start() {
    mkdir -p "$dir"/{state,spool}
    chmod 755 "$dir"
    touch "$dir"/gpu{0,1}
    head -c 1024 /dev/urandom >"$dir/munge.key"
    chmod 600 "$dir/munge.key"
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"
    cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SchedulerParameters=sched_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 Gres=gpu:2 State=UNKNOWN
PartitionName=batch Nodes=$host Default=YES PriorityTier=1 GraceTime=60 MaxTime=INFINITE
PartitionName=urgent Nodes=$host PriorityTier=2 PreemptMode=off MaxTime=INFINITE
CONF
    echo "Name=gpu File=$dir/gpu[0-1]" >"$dir/gres.conf"
    slurmctld -c
    slurmd -c -N "$host"
    for _ in $(seq 60); do
        [ "$(sinfo --noheader --format=%T --partition=batch 2>/dev/null)" = idle ] && return
        sleep 0.5
    done
    tail -n 20 "$dir"/*.log >&2
    stop
    exit 1
}

stop() {
    scancel --partition=batch,urgent --quiet 2>/dev/null || true
    for name in slurmd slurmctld munged; do
        if [ -s "$dir/$name.pid" ]; then kill "$(cat "$dir/$name.pid")" 2>/dev/null || true; fi
    done
}

"$1"

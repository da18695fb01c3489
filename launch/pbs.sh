#!/usr/bin/env bash
# Trains on several nodes under PBS Professional or OpenPBS, and goes on after a preemption or the
# end of its time in a job of its own.
#   qsub launch/pbs.sh
#   qsub -v ARGUMENTS="--model resnet20 --dataset cifar10 --epochs 10" launch/pbs.sh
# ARGUMENTS are those of `tallygrad train`, separated by spaces. The run folder is runs/NAME-JOB.
#PBS -N tallygrad
#PBS -l select=2:ncpus=32:mpiprocs=4:ompthreads=8
#PBS -l walltime=04:00:00
#PBS -j oe
#PBS -r n
set -euo pipefail

# Statuses of the training: preempted with a checkpoint, and a rank that was lost.
preempted=75 lost=4
minutes=${MINUTES:-235} # of training: a few less than the walltime, to write a checkpoint
attempt=${ATTEMPT:-1}

cd "${PBS_O_WORKDIR:-.}"
script=${SCRIPT:-launch/pbs.sh} # this file: what PBS runs is a copy
bin=${TALLYGRAD_VENV:-.venv}/bin
[ -x "$bin/python" ] && PATH=$(cd "$bin" && pwd):$PATH
read -r -a arguments <<<"${ARGUMENTS:---model resnet20 --dataset cifar10 --epochs 10}"
job=${PBS_JOBID:?submit this script with qsub}
out=${OUT:-runs/${PBS_JOBNAME:-tallygrad}-${job%%.*}}

# PBS starts processes on the other nodes itself, without ssh, where it has the program for it.
if agent=$(command -v pbs_tmrsh); then
  export HYDRA_LAUNCHER=rsh HYDRA_LAUNCHER_EXEC=$agent PRTE_MCA_plm_ssh_agent=$agent
fi

# A line for each rank: select's mpiprocs of each node.
hosts=(--hostfile "${PBS_NODEFILE:?expected the list of nodes of a PBS job}")
tallygrad doctor "${hosts[@]}" --out "$out"

# SIGTERM, as of qdel or a preemption, reaches `launch` too; this script must outlive it.
trap : TERM USR1
status=0
timeout --foreground --preserve-status --signal=USR1 "${minutes}m" \
  tallygrad launch "${hosts[@]}" -- train "${arguments[@]}" --out "$out" --resume auto || status=$?

if { [ "$status" -eq "$preempted" ] && [ "$attempt" -lt 100 ]; } ||
  { [ "$status" -eq "$lost" ] && [ "$attempt" -lt 5 ]; }; then
  echo "status $status: going on with $out in another job"
  export ARGUMENTS="${arguments[*]}" OUT=$out ATTEMPT=$((attempt + 1)) MINUTES=$minutes
  qsub -v ARGUMENTS,OUT,ATTEMPT,MINUTES "$script"
  exit 0
fi
exit "$status"

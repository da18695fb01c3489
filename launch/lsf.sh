#!/usr/bin/env bash
# Trains on several hosts under LSF, which queues the job again after a preemption or the end of its
# time, for it then ends with status 75 (-Q).
#   bsub < launch/lsf.sh
#   ARGUMENTS="--model resnet20 --dataset cifar10 --epochs 10" bsub < launch/lsf.sh
# ARGUMENTS are those of `tallygrad train`, separated by spaces. The run folder is runs/NAME-JOB.
#BSUB -J tallygrad
#BSUB -n 8
#BSUB -R "span[ptile=4] affinity[core(8)]"
#BSUB -W 4:00
#BSUB -wa USR1
#BSUB -wt 2
#BSUB -Q "75"
#BSUB -o %J.log
set -euo pipefail

cd "${LS_SUBCWD:-.}"
bin=${TALLYGRAD_VENV:-.venv}/bin
[ -x "$bin/python" ] && PATH=$(cd "$bin" && pwd):$PATH
read -r -a arguments <<<"${ARGUMENTS:---model resnet20 --dataset cifar10 --epochs 10}"
out=runs/${LSB_JOBNAME:-tallygrad}-${LSB_JOBID:?submit this script with bsub}
[ "${LSB_JOBINDEX:-0}" -eq 0 ] || out=$out-$LSB_JOBINDEX # bsub -J "tallygrad[1-4]"

# LSF starts processes on the other hosts itself, without ssh.
if agent=$(command -v blaunch); then
  export HYDRA_LAUNCHER=rsh HYDRA_LAUNCHER_EXEC=$agent PRTE_MCA_plm_ssh_agent=$agent
fi

# A line for each rank: -n of them.
hosts=(--hostfile "${LSB_DJOB_HOSTFILE:?expected the list of hosts of an LSF job}")
tallygrad doctor "${hosts[@]}" --out "$out"

# LSF sends SIGUSR1, 2 minutes before the end (-wa, -wt), to all processes of the job: `launch` hands
# it to the ranks, and this script must outlive it.
trap : USR1 TERM
status=0
tallygrad launch "${hosts[@]}" -- train "${arguments[@]}" --out "$out" --resume auto || status=$?
exit "$status"

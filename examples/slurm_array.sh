#!/usr/bin/env bash
#SBATCH --job-name=hessjax-sweep
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue

# Eight workers on one store, on a file system they share:
#
#   sbatch examples/slurm_array.sh sweep.json /scratch/me/sweep.zarr
#
# Each does its place in the array and then what others left undone, so a task that is lost costs time and nothing else.
# At SIGTERM, 60 s before the limit or at preemption, a worker stores the units it has computed and ends; requeued after
# preemption it goes on by itself, after the limit once the same job is submitted again. Part of an array will do too.
# How far it is, from anywhere:  hessjax status /scratch/me/sweep.zarr
set -euo pipefail

config=${1:-examples/sweep.json}
store=${2:-sweep.zarr}

# srun does not inherit --cpus-per-task.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" hessjax sweep --config "$config" --output "$store" --take-over --no-progress

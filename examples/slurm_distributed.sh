#!/usr/bin/env bash
#SBATCH --job-name=hessjax-spectrum
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=01:00:00

# One model's spectrum over four nodes: every process holds a part of the rows, and the first one prints and writes.
#
#   sbatch examples/slurm_distributed.sh spectrum.html --landscape digits-mlp --options widths=512,512 pool=1 rows=none
#
# On nodes with several GPUs, one task for each:  --ntasks-per-node=4 --gpus-per-task=1
set -euo pipefail

report=${1:-spectrum.html}
shift || true

# srun does not inherit --cpus-per-task.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" hessjax spectrum --distributed --method slq --report "$report" "$@"

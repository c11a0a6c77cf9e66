#!/bin/bash
#SBATCH --job-name=scratch
#SBATCH --output=trap.out
set -euo pipefail

scratch=$(mktemp -d "/tmp/$(id -un)-$SLURM_JOB_ID.XXXXXX")
finish() {
    cp "$scratch/result" "$SLURM_SUBMIT_DIR/result.txt"
    rm -rf "$scratch"
    echo "cleaned up"
}
trap finish EXIT
cd "$scratch"
seq 10 > input
awk '{ sum += $1 } END { print sum }' input > result
echo done

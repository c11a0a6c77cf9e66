#!/bin/bash
#SBATCH --array=2-10:4%1
#SBATCH -o limit-%a.out -e limit-%a.err

# One at a time: a directory that is there already would tell.
mkdir busy || exit 1
echo "$SLURM_ARRAY_TASK_ID"
echo "warning of $SLURM_ARRAY_TASK_ID" >&2
rmdir busy

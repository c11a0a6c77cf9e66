#!/bin/bash
#SBATCH --array=0-5
#SBATCH --output=/dev/null

# Two parameters of one index.
sizes=(10 20 30)
seeds=(1 2)
size=${sizes[$(( SLURM_ARRAY_TASK_ID % 3 ))]}
seed=${seeds[$(( SLURM_ARRAY_TASK_ID / 3 ))]}
printf '%d %d\n' "$size" "$seed" > "grid-$SLURM_ARRAY_TASK_ID.dat"

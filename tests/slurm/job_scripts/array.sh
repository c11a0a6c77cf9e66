#!/bin/bash
#SBATCH --job-name=params
#SBATCH --array=1-4
#SBATCH --output=%x_%A_%a.out
#SBATCH --time=5

# The n-th line of a file of parameters, which the first one that comes writes.
printf '%s\n' "alpha 1" "beta 2" "gamma 3" "delta 4" > params.$SLURM_ARRAY_TASK_ID
read -r name value < <(sed -n "${SLURM_ARRAY_TASK_ID}p" "params.$SLURM_ARRAY_TASK_ID")
rm "params.$SLURM_ARRAY_TASK_ID"
echo "$name has $value: $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT"
echo "from $SLURM_ARRAY_TASK_MIN to $SLURM_ARRAY_TASK_MAX by $SLURM_ARRAY_TASK_STEP"

#!/bin/bash
#SBATCH --export=NONE
#SBATCH --output=none.out
echo "COLOUR=${COLOUR:-unset} for job $SLURM_JOB_ID"

#!/bin/bash -l
#SBATCH --output=login.out
shopt -q login_shell && echo "a login shell"
srun -n 1 echo "step $SLURM_STEP_ID"

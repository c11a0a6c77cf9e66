#!/bin/bash
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --output=openmp.out

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
export OMP_PLACES=cores
srun sh -c 'echo "threads: $OMP_NUM_THREADS, tasks: $SLURM_NTASKS, rank: $SLURM_PROCID"'

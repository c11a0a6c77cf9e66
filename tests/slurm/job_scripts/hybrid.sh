#!/bin/bash
#SBATCH --nodes=2 --ntasks=4 --cpus-per-task=2
#SBATCH -o hybrid.out

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
srun "$PYTHON" hello.py
srun --label sh -c 'echo "$SLURM_NODEID.$SLURM_LOCALID $OMP_NUM_THREADS"' | sort

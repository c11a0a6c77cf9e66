#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks=4
#SBATCH --output=mpi.out

srun "$PYTHON" hello.py
srun -n 3 "$PYTHON" hello.py

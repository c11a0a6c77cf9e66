#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --output=mpirun.out

mpirun.openmpi "$PYTHON" hello.py
mpirun.openmpi -n 2 "$PYTHON" hello.py

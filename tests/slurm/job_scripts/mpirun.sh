#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks=4
#SBATCH --output=mpirun.out

mpirun.openmpi "$PYTHON" hello.py
mpirun.openmpi -n 2 "$PYTHON" hello.py

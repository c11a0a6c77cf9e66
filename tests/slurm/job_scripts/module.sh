#!/bin/bash
#SBATCH --output=module.out

# As sites have it: a function, here of the shell that submits.
module purge
module load gcc/12 openmpi
module list
echo "LOADED=$LOADED"

#!/bin/bash
#SBATCH --time=1
#SBATCH --signal=B:USR1@55
#SBATCH --output=signal.out

# Saves its state before its time is over.
checkpoint() { echo "checkpoint"; exit 0; }
trap checkpoint USR1
sleep 600 &
wait
echo "never"

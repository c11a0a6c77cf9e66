#!/bin/bash
#SBATCH --job-name=second
#SBATCH --output=second.out
# Submitted with --dependency=afterok: of the first.
cat first.dat

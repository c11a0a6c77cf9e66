#!/bin/bash
#SBATCH --chdir=run
#SBATCH --job-name=dirs
#SBATCH --output=%x-%j-%N.log --error=%x.err
echo "in $(basename "$PWD") from $(basename "$SLURM_SUBMIT_DIR")"
echo "complaint" >&2

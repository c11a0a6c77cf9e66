#!/bin/bash
#SBATCH --job-name=first
#SBATCH --output=first.out
echo 42 > first.dat
echo made

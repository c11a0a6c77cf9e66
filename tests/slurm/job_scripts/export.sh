#!/bin/bash
#SBATCH --export=ALL,CASE=three
#SBATCH --output=export.out
echo "CASE=$CASE COLOUR=${COLOUR:-unset}"

#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --output=pack.out

# Many small runs in one allocation, as many at once as there are cores.
ls -1 /dev/null > list
seq 12 | xargs -P 8 -I{} srun -n1 -N1 -c1 --exact sh -c 'echo {} > pack-{}'
cat pack-* | sort -n | paste -sd+

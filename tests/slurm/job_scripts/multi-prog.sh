#!/bin/bash
#SBATCH -n 3
#SBATCH -o multi.out

cat > programs.conf <<END
# ranks and their programs
0    echo master %t
1-2  echo worker %t with offset %o
END
srun --multi-prog programs.conf | sort

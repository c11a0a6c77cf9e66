#!/bin/bash
#SBATCH --ntasks=4
#SBATCH --output=steps.out

for n in 1 2 3 4 5 6; do
    srun --ntasks=1 --cpus-per-task=1 --exact --output="part-$n" \
        sh -c "echo part $n of rank \$SLURM_PROCID" 2> /dev/null &
done
wait
cat part-?
srun --ntasks=1 sh -c 'exit 3' 2> /dev/null
echo "status $?"

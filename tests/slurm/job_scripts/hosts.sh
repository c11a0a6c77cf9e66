#!/bin/bash
#SBATCH -N 2
#SBATCH -o hosts.out

# A file of hosts for a program with a launcher of its own.
scontrol show hostnames "$SLURM_JOB_NODELIST" > machines
wc -l < machines
for host in $(cat machines); do
    srun --nodes=1 --ntasks=1 --nodelist="$host" hostname
done
srun --ntasks-per-node=1 hostname | sort -u | wc -l
echo "$SLURM_TASKS_PER_NODE tasks on $SLURM_NNODES nodes"

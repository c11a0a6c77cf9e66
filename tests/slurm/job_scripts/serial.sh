#!/bin/bash
#SBATCH --job-name=serial
#SBATCH --time=00:05:00
#SBATCH --mail-type=END
#SBATCH --mail-user=me@example.org

echo "Job $SLURM_JOB_ID ($SLURM_JOB_NAME) on $SLURM_JOB_NUM_NODES node with $SLURM_CPUS_ON_NODE core"
echo "submitted from $(basename "$SLURM_SUBMIT_DIR"), runs in $(basename "$PWD")"
[ "$SLURM_JOB_NODELIST" = "$SLURMD_NODENAME" ] && echo "that node is $SLURM_JOB_NODELIST"
echo "${SLURM_NTASKS:-no number of tasks}, ${SLURM_CPUS_PER_TASK:-no cores of each}"

#!/usr/bin/env python3
#SBATCH --ntasks=2
#SBATCH --output=python.out
"""A script need not be one of a shell."""

import os
import subprocess

print("tasks", os.environ["SLURM_NTASKS"], flush=True)
said = subprocess.run(
    ["srun", "-n", "2", "-l", "echo", "hello"], check=True, stdout=subprocess.PIPE, text=True
).stdout
print("\n".join(sorted(said.split("\n"))))

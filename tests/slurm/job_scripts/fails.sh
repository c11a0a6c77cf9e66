#!/bin/bash
#SBATCH --output=fails.out
set -e
echo begun
ls /none/such > /dev/null 2>&1 || exit 3
echo never

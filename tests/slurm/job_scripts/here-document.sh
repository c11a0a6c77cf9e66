#!/bin/bash
#SBATCH -J "with blanks"
#SBATCH -o here.out

cat > case.in <<END
&control
  title = '$SLURM_JOB_NAME'
  steps = $(( 2 * 21 ))
/
END
cat <<'END' >> case.in
literally $SLURM_JOB_ID
END
python3 - case.in <<END
import sys
print(len(open(sys.argv[1]).readlines()), "lines")
END

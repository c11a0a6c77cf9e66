"""Slurm's dialect of job scripts: scripts for ``sbatch``, as they are.

`directives` splits a script's lines into options, `reading` says what they ask for, `running` what
a script finds where it runs. `srun_program` stands in for ``srun`` there, with `srun_options` for
its words, and `step_process` is around each process that it starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilot.scheduler.batch.job_scripts import (
    Programs,
    ScriptPlace,
    ScriptWork,
    StepFacts,
    Surface,
)


class SlurmDialect:
    """Scripts with lines that begin with ``#SBATCH``."""

    name = "slurm"

    def is_script(self, text: str) -> bool:
        """Tell whether there is such a line before the first command."""
        if "#SBATCH" not in text:
            return False
        from pilot.scheduler.batch.slurm.job_scripts.directives import has_directives

        return has_directives(text)

    def has_steps(self, text: str) -> bool:
        """Tell whether a script has ``srun`` in it."""
        return "srun" in text

    def read(self, text: str, more: Sequence[str], surface: Surface) -> ScriptWork:
        """Read a script as ``sbatch`` does."""
        from pilot.scheduler.batch.slurm.job_scripts.reading import read_script

        return read_script(text, more, surface)

    def variables(self, work_asked: Mapping[str, str], place: ScriptPlace) -> dict[str, str]:
        """Return the ``SLURM_`` variables of a script."""
        from pilot.scheduler.batch.slurm.job_scripts.running import script_variables

        return script_variables(work_asked, place)

    def is_of_job(self, variable: str) -> bool:
        """Tell whether a variable is one of Slurm's, without those that say how to reach it."""
        from pilot.scheduler.batch.slurm.job_scripts.running import is_of_job

        return is_of_job(variable)

    def file_name(self, pattern: str, place: ScriptPlace) -> str:
        """Fill in ``%j`` and the like."""
        from pilot.scheduler.batch.slurm.job_scripts.running import file_name

        return file_name(pattern, place)

    def programs(
        self, work_asked: Mapping[str, str], place: ScriptPlace, facts: StepFacts
    ) -> Programs:
        """Return ``srun``."""
        from pilot.scheduler.batch.slurm.job_scripts.running import step_programs

        return step_programs(work_asked, place, facts)


DIALECT = SlurmDialect()

"""Heat in a plate: saved when its pilot is about to end, and continued in the next one.

Run it with `python stop_in_time.py`, and cancel its pilot meanwhile (`pilot fleet list`,
`pilot fleet cancel JOB`). The last line says in how many attempts the steps were made, each once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import pilot

#: Grid points along each side, and the steps to make.
POINTS, STEPS = 400, 20_000
#: A checkpoint now and then, in case that a node fails without notice.
EVERY = 5_000

Field = npt.NDArray[np.float64]


def advance(field: Field) -> None:
    """Make one step of the heat equation, with the edges kept as they are."""
    inner = field[1:-1, 1:-1]
    around = field[:-2, 1:-1] + field[2:, 1:-1] + field[1:-1, :-2] + field[1:-1, 2:]
    inner += 0.2 * (around - 4.0 * inner)


@pilot.task
def heat(points: int, steps: int) -> tuple[int, float]:
    """Return the number of this attempt, and the mean temperature after so many steps."""
    context = pilot.context()
    saved = context.checkpoint.load()
    if saved is None:
        step, field = 0, np.zeros((points, points))
        field[0] = 1.0  # one edge is hot
    else:
        step, field = saved
        context.logger.info("goes on from step %d", step)
    while step < steps:
        advance(field)
        step += 1
        stops = context.should_stop
        if stops or step % EVERY == 0:
            context.checkpoint.save(step, field)
        if stops and step < steps:
            context.logger.info("stops at step %d: %s", step, context.stop_reason)
            raise pilot.Stopped
    return context.attempt, float(field.mean())


if __name__ == "__main__":
    with pilot.Session() as session:
        future = session.submit(heat, POINTS, STEPS)
        print(f"task {future.task_id}; `pilot task logs -f {future.task_id}` shows what it says")
        attempts, mean = future.result()
        print(f"mean temperature {mean:.4f}, in {attempts} attempts")

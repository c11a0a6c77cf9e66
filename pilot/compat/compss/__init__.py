"""Programs for PyCOMPSs on Pilot.

| module | has |
| --- | --- |
| `parameters` | what a parameter of a task means: its kind and direction |
| `signatures` | what a call gives to which parameter, and how many results a function has |
| `shapes` | the leaves of collections |
| `tracker`, `files`, `turns` | which future an object, or a file, is now |
| `decoration`, `constraints`, `policies` | tasks as programs write them |
| `layers`, `given` | what decorators put around a function, or in its place; how they are read |
| `programs`, `binaries`, `nested_programs` | programs in the place of functions |
| `ranks`, `mpi_tasks`, `rank_functions` | programs and functions on ranks of MPI |
| `web_services`, `configured`, `transformations` | requests, files that describe tasks, arguments |
| `surroundings`, `containers`, `several_nodes`, `compiled` | what is around functions |
| `alternatives`, `implementing` | the implementations of a function |
| `stand_ins` | what stands for results in the program |
| `needs` | the options of Pilot's tasks for a call |
| `calls`, `reducing` | a call as a task of Pilot, or as a tree of them |
| `application`, `running` | the program: its session, what is unfinished, what has failed |
| `api`, `functions`, `tracked`, `interactive`, `serializing` | what programs call |
| `dds`, `partitions` | data sets in partitions |
| `runner`, `sandbox`, `work` | what runs in a task |
| `nesting`, `checkpoints` | tasks that call tasks; results that later runs find |
| `streams` | what tasks that run at the same time hand to each other |
| `launching`, `flags`, `commands` | how programs are started |
| `enqueueing`, `jobs` | programs in jobs of their own |
"""

"""The check of a site, as ``pilot doctor`` runs it: here, and in a job on its nodes.

`facts` are gathered by `gathering`, each with a time limit (`limited`), and judged by `judging`
(pure). `checks` lists all that is checked, `job` submits the job whose nodes run `node`, `report`
puts together what the command prints.
"""

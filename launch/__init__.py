"""Studies on many processes and machines: a gin file's populations, each a run of its own (lopbench/study.py).

    python -m launch.local    on this machine: its GPUs, or processes on its processor
    python -m launch.slurm    on a SLURM cluster
    python -m launch.status   how far a study is

In an installed lopbench the package is `lopbench.launch`.
"""

"""Workers of ``pkpd trial --scheduler`` as jobs of SLURM, by dask-jobqueue (pip install dask-jobqueue).

    python slurm.py 20                    # on the login node: 20 jobs; prints the address, holds them until Ctrl-C
    pkpd trial phase3 --out run --scheduler tcp://ADDRESS

Change account, queue and sizes to those of your site. The environment must be the same on every node, as on a shared
disk. One thread a worker: a chunk of trials keeps all cores of its job busy by itself.
"""

from __future__ import annotations

import sys
import time

from dask_jobqueue import SLURMCluster


def cluster() -> SLURMCluster:
    """Jobs of 8 cores and 4 GB; none before ``scale``."""
    return SLURMCluster(
        queue="normal",
        account="my-account",
        cores=1,  # Dask's threads
        processes=1,
        job_cpu=8,  # cores of a job
        memory="4GB",
        walltime="02:00:00",
        job_script_prologue=["export PKPD_THREADS=8"],
        worker_extra_args=["--lifetime", "110m", "--lifetime-stagger", "5m"],  # leaves before the job's time is up
    )


if __name__ == "__main__":
    with cluster() as jobs:
        jobs.scale(jobs=int(sys.argv[1]))
        print(jobs.scheduler_address, flush=True)
        while True:
            time.sleep(60)

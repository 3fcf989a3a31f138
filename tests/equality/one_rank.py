"""One rank of some jobs, as a process of its own: python one_rank.py RANK WORLD_SIZE MEETING_FILE JOBS.

JOBS: a JSON list of {"run_dir", "document", "resumes"}; the jobs are done one after the other, summaries printed.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from jobs.errors import LargebatchError
from jobs.job import prepare, run_job
from jobs.listener import Listener
from jobs.spec_reader import build_spec


def main() -> None:
    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world_size)
    for job in json.loads(sys.argv[4]):
        try:
            prepared = prepare(build_spec(job["document"]), torch.device("cpu"), Path("data"))
            print(run_job(prepared, Path(job["run_dir"]), Listener(), resumes=job["resumes"]).model_dump_json(), flush=True)
        except LargebatchError as error:
            print(json.dumps({"error": str(error)}), flush=True)
        dist.barrier()  # gloo ends a rank that is still being talked to
    dist.destroy_process_group()
    # A thread of gloo may still be letting go of a tensor, for which it needs the interpreter; an interpreter that is
    # ending kills such a thread and the process with it ("terminate called without an active exception").
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

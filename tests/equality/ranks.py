"""Some jobs by several ranks, each a process: python ranks.py WORLD_SIZE MEETING_FILE ANSWERS JOBS.

JOBS: a JSON list of {"run_dir", "document", "resumes"}, done one after the other. Each rank's summaries go to
ANSWERS.RANK. Ranks are forked once torch is imported, which takes longer than what they do.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from jobs.errors import LargebatchError
from jobs.job import prepare, run_job
from jobs.listener import Listener
from jobs.spec_reader import build_spec


def train(rank: int, world_size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=world_size)
    with Path(f"{sys.argv[3]}.{rank}").open("w") as answers:
        for job in json.loads(sys.argv[4]):
            try:
                prepared = prepare(build_spec(job["document"]), torch.device("cpu"), Path("data"))
                print(run_job(prepared, Path(job["run_dir"]), Listener(), resumes=job["resumes"]).model_dump_json(), file=answers)
            except LargebatchError as error:
                print(json.dumps({"error": str(error)}), file=answers)
            dist.barrier()  # gloo ends a rank that is still being talked to
    dist.destroy_process_group()


def main() -> int:
    world_size = int(sys.argv[1])
    started = []
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                train(rank, world_size)
                code = 0
            except BaseException:
                traceback.print_exc()
            # A thread of gloo may still be letting go of a tensor, for which it needs the interpreter; an interpreter that is
            # ending kills such a thread and the process with it ("terminate called without an active exception").
            sys.stderr.flush()
            os._exit(code)
        started.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in started)


if __name__ == "__main__":
    sys.exit(main())

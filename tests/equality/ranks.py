"""Some jobs by several ranks, each a process, for every line of JSON on standard input.

A line: {"world_size", "meeting": a file's path, "answers": a path, "jobs": [{"run_dir", "document", "resumes"}, ...]}. The
jobs are done one after the other; each rank's summaries go to ANSWERS.RANK, its errors to ANSWERS.RANK.errors, and then
the worst exit code to standard output. Ranks are forked where torch is imported, which takes longer than what they do; so is
what torch's optimizers import when they are first made, and the library's where a job names one, 2 to 4 s for each rank otherwise. The digits are
read once.
"""

import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from largebatch.jobs.data.sources.table import SOURCES
from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.spec.model_and_data import DatasetSpec
from largebatch.jobs.spec.read import build_spec

OF_LIBRARY = {"soap", "shampoo"}


def train(task: dict[str, Any], rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{task['meeting']}", rank=rank, world_size=task["world_size"])
    with Path(f"{task['answers']}.{rank}").open("w") as answers:
        for job in task["jobs"]:
            try:
                prepared = prepare(build_spec(job["document"]), torch.device("cpu"), Path("data"))
                print(run_job(prepared, Path(job["run_dir"]), Listener(), resumes=job["resumes"]).model_dump_json(), file=answers)
            except LargebatchError as error:
                print(json.dumps({"error": str(error)}), file=answers)
            dist.barrier()  # gloo ends a rank that is still being talked to
    dist.destroy_process_group()


def carry_out(task: dict[str, Any]) -> int:
    """The worst exit code of the ranks."""
    if OF_LIBRARY & {job["document"]["optimizer"].get("name") for job in task["jobs"]}:
        import_module("pytorch_optimizer")
    started = []
    for rank in range(task["world_size"]):
        pid = os.fork()
        if pid == 0:
            code = 1
            os.dup2(os.open(f"{task['answers']}.{rank}.errors", os.O_WRONLY | os.O_CREAT), 2)
            try:
                train(task, rank)
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
    import_module("torch._dynamo")
    held = SOURCES["digits"](DatasetSpec(name="digits"), Path("data"))
    SOURCES["digits"] = lambda spec, data_dir: held
    for line in sys.stdin:
        print(int(carry_out(json.loads(line))), flush=True)

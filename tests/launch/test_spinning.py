"""How long OpenMP's threads spin, and that every process that trains is told before torch is there."""

import os
import subprocess
import sys

import pytest

from largebatch.jobs.launch.openmp_threads import BRIEFLY, spin_briefly


@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_a_person_chose_stays(chosen: dict[str, str]) -> None:
    environment = dict(chosen)
    spin_briefly(environment)
    assert environment == chosen


def test_otherwise_briefly() -> None:
    environment: dict[str, str] = {}
    spin_briefly(environment)
    assert environment == {"GOMP_SPINCOUNT": BRIEFLY}


@pytest.mark.parametrize("module", ["largebatch.jobs", "largebatch"])
def test_a_command_sets_it_before_torch_is_imported(module: str) -> None:
    """The runtime reads it when torch is loaded."""
    probe = (
        "import os, runpy, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': print('spins', os.environ.get('GOMP_SPINCOUNT'), file=sys.__stderr__, flush=True); os._exit(0)\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"sys.argv = ['x', *{['digits-lamb'] if module == 'largebatch.jobs' else ['plan', 'digits-lamb']!r}]\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    out = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True, env=environment)
    assert (out.stdout + out.stderr).strip() == f"spins {BRIEFLY}"

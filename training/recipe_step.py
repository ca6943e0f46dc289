"""One step of a long recipe: a command of this project that is run once and leaves a mark."""
from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from vlnr1_ros.navigation.errors import UserError


def run_step(mark: Path, name: str, module: str, *arguments, processes: int = 1) -> None:
    """Run a module as a command, printed first, unless its mark says that it was done.

    processes: of torch.distributed, one a core. Raises UserError when it fails.
    """
    if mark.exists():
        return
    launcher = ['torch.distributed.run', '--nproc-per-node', str(processes), '-m'] \
        if processes > 1 else []
    command = [sys.executable, '-m', *launcher, module, *map(str, arguments)]
    print(f'[{name}]', ' '.join(command), flush=True)
    started = time.monotonic()
    code = subprocess.run(command, env={**os.environ, 'OMP_NUM_THREADS': '1'}).returncode
    if code:
        raise UserError(f'step {name} ended with exit code {code}; run the same command '
                        'again when its cause is mended, finished steps are kept')
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(f'{time.monotonic() - started:.0f} s\n')

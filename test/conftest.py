"""What several tests share."""
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sim_bridge.config import EnvironmentConfig

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Apartments:
    """A data folder with two apartments; read only."""

    data: Path
    split: str = 'val_unseen'

    def config(self, **changes) -> EnvironmentConfig:
        """Settings of an environment over it."""
        return EnvironmentConfig(dataset=str(self.data / 'datasets/apartments/v1'),
                                 split=self.split,
                                 scenes_dir=str(self.data / 'scene_datasets'), **changes)


@pytest.fixture(scope='session')
def apartments(tmp_path_factory) -> Apartments:
    """Two generated apartments with 28 episodes of all tiers."""
    data = tmp_path_factory.mktemp('apartments')
    command = [sys.executable, '-m', 'vlnr1_ros', 'worlds', '--out', str(data), '--seed', '7',
               '--split', 'val_unseen=2', '--tiers', 'room=6,door=4,apartment=4']
    subprocess.run(command, check=True, cwd=REPOSITORY, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    return Apartments(data)


def is_python_39(path: Path) -> bool:
    """Whether there is an interpreter of that version, and it runs."""
    code = 'import sys; sys.exit(sys.version_info[:2] != (3, 9))'
    return path.exists() and subprocess.run([path, '-c', code]).returncode == 0


@pytest.fixture(scope='session')
def habitat_python() -> str:
    """Interpreter of environment servers: the 3.9 of `make test` where there is one, or ours."""
    python = REPOSITORY / '.venv39/bin/python'
    return str(python) if is_python_39(python) else sys.executable


@pytest.fixture
def no_habitat_here(tmp_path, monkeypatch):
    """This process, and the workers it spawns, cannot import habitat-lab."""
    hidden = tmp_path / 'hidden'
    hidden.mkdir()
    (hidden / 'habitat.py').write_text('raise ImportError("not for this interpreter")')
    monkeypatch.syspath_prepend(str(hidden))
    monkeypatch.setitem(sys.modules, 'habitat', None)

"""How every command-line program of the house ends: one clear line instead of a traceback."""

from __future__ import annotations

import errno
import os
import sys
from typing import Callable

from vlnr1_ros.navigation.errors import UserError

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
BAD_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
            errno.EEXIST, errno.ENAMETOOLONG)

# which extra of setup.py brings a module that may be missing
EXTRA_OF = {
    'torch': 'robot', 'transformers': 'robot', 'cv2': 'robot', 'PIL': 'robot', 'peft': 'robot',
    'safetensors': 'robot', 'rosbags': 'robot', 'rclpy': 'ros', 'std_msgs': 'ros',
    'numba': 'sim', 'shapely': 'sim', 'trimesh': 'sim', 'msgpack': 'sim', 'hydra': 'sim',
    'omegaconf': 'sim',
    'gym': 'sim', 'quaternion': 'sim', 'imageio_ffmpeg': 'sim', 'trl': 'train',
    'datasets': 'train', 'accelerate': 'train',
}


def run(verb: str, main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Call a verb's main(argv); returns the exit code.

    What the user can put right (UserError, a missing package, a full disk, a path that cannot be
    used) is one line on stderr and 2; Ctrl-C is 130. Other exceptions are defects and pass.
    """
    try:
        return main(argv) or 0
    except UserError as error:
        text = str(error)
    except ModuleNotFoundError as error:
        text = missing_module_text(error)
    except BrokenPipeError:
        # the reader (head, less) has gone: nothing is left to say, also not while closing stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        text = system_error_text(error)
        if not text:
            raise
    print(f'vlnr1 {verb}: error: {" ".join(text.split())}', file=sys.stderr)
    return USER_ERROR


def system_error_text(error: Exception) -> str:
    """One line for a full disk, or a path that cannot be used; empty for anything else."""
    path = getattr(error, 'filename', None)
    # safetensors and others that write in Rust or C++ hand on nothing but the text
    if getattr(error, 'errno', None) in DISK_FULL or os.strerror(errno.ENOSPC) in str(error):
        return f'the disk is full at {path or "an output file"}: free space and repeat'
    if getattr(error, 'errno', None) in BAD_PATH and path:
        return f'{path}: {error.strerror}; give another path'
    return ''


def missing_module_text(error: ModuleNotFoundError) -> str:
    """One line that names the missing module and the command that installs it."""
    name = (error.name or str(error)).split('.')[0]
    if name == 'habitat':
        remedy = "pip install 'vlnr1_ros[sim]', then pip install --no-deps habitat-lab"
    elif name in EXTRA_OF:
        remedy = f"pip install 'vlnr1_ros[{EXTRA_OF[name]}]'"
    else:
        remedy = 'vlnr1 doctor lists what is missing'
    return f'{name} is not installed: {remedy}'

"""The `vlnr1` program: `vlnr1 VERB ...` calls main(argv) of the verb's module.

Modules are imported when called, so that `vlnr1 doctor` runs where torch or the simulator are
missing, and `vlnr1 worlds` does not wait for torch.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys

from vlnr1_ros import __version__
from vlnr1_ros.navigation.errors import UserError

VERBS = {
    'demo': ('sim_bridge.demo', 'the ROS graph in generated apartments, with videos to look at'),
    'worlds': ('sim_bridge.worlds.generate', 'generate apartments and VLN-CE episodes'),
    'ego': ('training.ego', 'replay the expert into VLN-Ego samples'),
    'sft': ('training.sft', 'supervised fine-tuning of a Qwen-VL checkpoint'),
    'evaluate': ('training.evaluate', 'closed loop over a split, with every VLN-CE metric'),
    'bench': ('training.bench', 'speed, side by side with the plain way'),
    'card': ('vlnr1_ros.navigation.card', "write a checkpoint's navigation.json"),
    'doctor': ('vlnr1_ros.doctor', 'what is installed, what is missing, what to do about it'),
}

# which extra of setup.py brings a module that may be missing
EXTRA_OF = {
    'torch': 'robot', 'transformers': 'robot', 'cv2': 'robot', 'PIL': 'robot', 'peft': 'robot',
    'safetensors': 'robot', 'rclpy': 'ros', 'std_msgs': 'ros', 'numba': 'sim', 'shapely': 'sim',
    'trimesh': 'sim', 'zmq': 'sim', 'msgpack': 'sim', 'hydra': 'sim', 'omegaconf': 'sim',
    'gym': 'sim', 'quaternion': 'sim', 'imageio': 'sim', 'trl': 'train', 'datasets': 'train',
    'accelerate': 'train',
}


def usage() -> str:
    verbs = '\n'.join(f'  {verb:<9} {what}' for verb, (_, what) in VERBS.items())
    return f'usage: vlnr1 VERB [...]   (vlnr1 VERB --help says more)\n\n{verbs}\n'


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


def call(verb: str, argv: list[str]) -> int:
    """Run a verb; what the user can put right becomes one line on stderr and exit code 2."""
    # argparse takes the program's name from here, so that help and errors say `vlnr1 VERB`
    sys.argv[0] = f'vlnr1 {verb}'
    try:
        return importlib.import_module(VERBS[verb][0]).main(argv) or 0
    except UserError as error:
        text = str(error)
    except ModuleNotFoundError as error:
        text = missing_module_text(error)
    except BrokenPipeError:
        # the reader (head, less) has gone: nothing left to say, also not while closing stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        text = f'the disk is full at {error.filename or "an output file"}: free space and repeat'
    except KeyboardInterrupt:
        return 130
    print(f'vlnr1 {verb}: error: {" ".join(text.split())}', file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        print(usage(), end='', file=sys.stderr)
        return 2
    verb, *rest = argv
    if verb in ('-h', '--help', 'help'):
        print(usage(), end='')
        return 0
    if verb == '--version':
        print(f'vlnr1 {__version__}')
        return 0
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f'did you mean {close[0]}?' if close else f'one of: {", ".join(VERBS)}'
        print(f'vlnr1: error: unknown verb {verb!r}; {hint}', file=sys.stderr)
        return 2
    return call(verb, rest)


if __name__ == '__main__':
    sys.exit(main())

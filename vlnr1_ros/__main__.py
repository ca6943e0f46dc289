"""The `vlnr1` program: `vlnr1 VERB ...` calls main(argv) of the verb's module.

A verb may be two words.

Modules are imported when called, so that `vlnr1 doctor` runs where torch or the simulator are
missing, and `vlnr1 worlds` does not wait for torch.
"""

from __future__ import annotations

import difflib
import importlib
import sys

from vlnr1_ros import __version__
from vlnr1_ros.command import run

VERBS = {
    'demo': ('sim_bridge.demo', 'the ROS graph in generated apartments, with videos to look at'),
    'worlds': ('sim_bridge.worlds.generate', 'generate apartments and VLN-CE episodes'),
    'ego': ('training.ego', 'replay the expert into VLN-Ego samples'),
    'ego import': ('training.ego_import', 'VLN-Ego samples of other programs, mended'),
    'ego from-bag': ('training.ego_bag', 'recordings of a robot into VLN-Ego samples'),
    'ego check': ('training.ego_check', 'inspect samples by what their images show'),
    'sft': ('training.sft', 'supervised fine-tuning of a Qwen-VL checkpoint'),
    'rft': ('training.rft', 'reinforcement fine-tuning (GRPO) of a checkpoint'),
    'evaluate': ('training.evaluate', 'closed loop over a split, with every VLN-CE metric'),
    'replay': ('vlnr1_ros.nodes.replay', 'a recording through a policy: where would it decide '
               'otherwise?'),
    'report': ('training.results', 'the tables of result files again, side by side'),
    'bench sim': ('sim_bridge.bench', 'speed of the environment, side by side with the plain way'),
    'bench bridge': ('sim_bridge.ros.bench', 'latency, lockstep and free run of the ROS bridge'),
    'bench train': ('training.bench_train', "both stages' speed, side by side with TRL's loop"),
    'bench decide': ('training.bench', 'how long decisions take, side by side with the plain way'),
    'serve': ('vlnr1_ros.policy.serve', 'a checkpoint behind an OpenAI-compatible URL'),
    'card': ('vlnr1_ros.navigation.card', "write a checkpoint's navigation.json"),
    'doctor': ('vlnr1_ros.doctor', 'what is installed, what is missing, what to do about it'),
}


def usage() -> str:
    verbs = '\n'.join(f'  {verb:<13} {what}' for verb, (_, what) in VERBS.items())
    return f'usage: vlnr1 VERB [...]   (vlnr1 VERB --help says more)\n\n{verbs}\n'


def call(verb: str, argv: list[str]) -> int:
    """Import a verb's module and run it; returns the exit code."""
    # argparse takes the program's name from here, so that help and errors say `vlnr1 VERB`
    sys.argv[0] = f'vlnr1 {verb}'
    return run(verb, lambda rest: importlib.import_module(VERBS[verb][0]).main(rest), argv)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        print(usage(), end='', file=sys.stderr)
        return 2
    verb, *rest = argv
    if rest and f'{verb} {rest[0]}' in VERBS:
        verb, rest = f'{verb} {rest[0]}', rest[1:]
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

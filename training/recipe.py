"""Settings of a training run: YAML files that build on one another, flags on top."""
from __future__ import annotations

from pathlib import Path

import yaml
from trl import TrlParser

from vlnr1_ros.navigation.errors import UserError

BASE = 'base'
CONFIG = '--config'


def parse(kinds: tuple, prog: str, argv: list[str]) -> tuple:
    """Instances of the dataclasses `kinds`, from ``--config FILE.yaml`` with flags on top.

    Raises UserError on a file that cannot be read and on settings nobody knows.
    """
    parser, argv = TrlParser(kinds, prog=prog), list(argv)
    try:
        if CONFIG in argv:
            at = argv.index(CONFIG)
            if at + 1 == len(argv):
                raise UserError(f'{CONFIG} needs a YAML file')
            file = Path(argv[at + 1])
            del argv[at:at + 2]
            unknown = parser.set_defaults_with_config(**read(file))
            if unknown:
                raise UserError(f'{file} has settings that {prog} does not know: '
                                f'{" ".join(unknown[::2])}')
        return parser.parse_args_into_dataclasses(argv)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None


def read(file: Path, above: tuple[Path, ...] = ()) -> dict:
    """What a YAML file says, on top of the file that its `base` names (seen from its folder).

    above: the files that build on this one.
    """
    file = file.resolve()
    if file in above:
        raise UserError(f'{file} builds on itself by way of {above[-1]}')
    try:
        said = yaml.safe_load(file.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f'{file} cannot be read as YAML ({error})') from None
    if not isinstance(said, dict):
        raise UserError(f'{file} holds no settings; NAME: VALUE lines are needed')
    base = said.pop(BASE, None)
    return {**(read(file.parent / base, (*above, file)) if base else {}), **said}

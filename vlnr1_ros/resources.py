"""Where the files that ship with the package are: launch/, config/ and models/nano.

The same call finds them in a checkout, in an installed wheel and in a colcon install (copied or
linked), whatever the working directory.
"""

from pathlib import Path

from vlnr1_ros.navigation.errors import UserError

PACKAGE = 'vlnr1_ros'


def _roots() -> list[Path]:
    """Folders that may hold the shipped files, the surest first.

    A checkout holds them beside the package. An install puts them below <prefix>/share while the
    package lies in <prefix>/lib/python3.x/site-packages (or in <prefix> itself, after
    `pip install --target`). An editable install has both: there the checkout is the live one.
    """
    package = Path(__file__).resolve().parent
    checkout = [package.parent] if (package.parent / 'package.xml').is_file() else []
    return checkout + [folder / 'share' / PACKAGE for folder in package.parents]


def shipped(relative: str) -> Path:
    """The absolute path of a shipped file or folder, e.g. 'models/nano' or 'config/sim.yaml'.

    Raises:
        UserError: nothing of that name is installed.
    """
    for root in _roots():
        if (root / relative).exists():
            return root / relative
    raise UserError(f'{relative} is not among the installed files of {PACKAGE}; it is there in a '
                    'checkout and after pip install or colcon build')


def given_or_shipped(path: str) -> Path:
    """`path` as the user gave it if it exists, otherwise the shipped file of that name.

    Lets `--policy models/nano` work from any working directory.

    Raises:
        UserError: neither exists.
    """
    given = Path(path).expanduser()
    if given.exists() or given.is_absolute():
        if not given.exists():
            raise UserError(f'{path} does not exist')
        return given.resolve()
    try:
        return shipped(path)
    except UserError:
        raise UserError(f'{path} exists neither below {Path.cwd()} nor among the installed files '
                        f'of {PACKAGE}') from None

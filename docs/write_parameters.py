"""Write the tables of parameters in the documents from what the nodes declare.

    python docs/write_parameters.py

A table stands between `<!-- parameters driver -->` and `<!-- end -->`, with whatever is to be
listed in place of `driver`: nodes, or single parameters as NODE.NAME.
"""
from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Iterable, NamedTuple

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.parameter import Parameter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sim_bridge.ros.parameters import BridgeParameters  # noqa: E402
from vlnr1_ros.motion.config import DriverConfig  # noqa: E402
from vlnr1_ros.nodes import runtime  # noqa: E402
from vlnr1_ros.nodes.driver_config import DriverNodeConfig  # noqa: E402
from vlnr1_ros.nodes.navigator_config import NavigatorConfig  # noqa: E402
from vlnr1_ros.nodes.recorder import RecorderConfig  # noqa: E402

DOCUMENTS = ('README.md', 'docs/parameters.md', 'docs/robot.md')
BLOCK = re.compile(r'(<!-- parameters (.*?) -->\n)(.*?)(<!-- end -->)', re.DOTALL)


class Declared(NamedTuple):
    """What a node declares."""

    node: str
    name: str
    default: object
    descriptor: ParameterDescriptor


class Declarations(list):
    """Stands in for a node while it declares: a list of :class:`Declared`."""

    def __init__(self, node: str):
        super().__init__()
        self._node = node

    def declare_parameter(self, name: str, default, descriptor) -> Parameter:
        """As of rclpy's node, where no value is given from outside."""
        self.append(Declared(self._node, name, default, descriptor))
        return Parameter(name, value=default)


def declarations() -> dict[str, Declarations]:
    """All parameters of every node, in the order in which they are declared."""
    nodes = {name: Declarations(name)
             for name in ('navigator', 'driver', 'recorder', 'sim_bridge')}
    runtime.declare_dataclass(nodes['navigator'], NavigatorConfig)
    runtime.declare_dataclass(nodes['driver'], DriverConfig)
    runtime.declare_dataclass(nodes['driver'], DriverNodeConfig)
    runtime.declare_dataclass(nodes['recorder'], RecorderConfig)
    BridgeParameters.declare(nodes['sim_bridge'])
    return nodes


def written(text: str, nodes: dict[str, Declarations]) -> str:
    """A document with its tables as they should be."""
    return BLOCK.sub(lambda match: match[1] + _table(match[2].split(), nodes) + match[4], text)


def _table(wanted: list[str], nodes: dict[str, Declarations]) -> str:
    """All that is known of the parameters of whole nodes; of picked ones what one must know."""
    rows = [row for item in wanted for row in _rows(item, nodes)]
    if all(item in nodes for item in wanted):
        return _lines('parameter | default | unit | range | at run time | meaning', (
            (f'`{row.name}`', _value(row.default), _unit(row), _range(row),
             _changes(row.descriptor), _meaning(row)) for row in rows))
    return _lines('parameter | default | meaning', (
        (f'{row.node} `{row.name}`', f'{_value(row.default)} {_unit(row)}'.strip(), _meaning(row))
        for row in rows))


def _lines(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f'| {head} |', '|---' * (head.count('|') + 1) + '|']
    lines += ['|' + ''.join(f' {cell} |' if cell else ' |' for cell in row) for row in rows]
    return '\n'.join(lines) + '\n'


def _changes(descriptor: ParameterDescriptor) -> str:
    if descriptor.read_only:
        return ''
    return 'unconfigured' if descriptor.additional_constraints else 'yes'


def _meaning(row: Declared) -> str:
    return row.descriptor.description.removesuffix(f' [{_unit(row)}]')


def _unit(row: Declared) -> str:
    unit = re.search(r' \[([^]]+)\]$', row.descriptor.description)
    return unit[1] if unit else ''


def _rows(item: str, nodes: dict[str, Declarations]) -> list[Declared]:
    node, _, name = item.partition('.')
    return [row for row in nodes[node] if name in ('', row.name)] or sys.exit(
        f'no node declares {item}')


def _value(default) -> str:
    if isinstance(default, list):
        return f'`[{", ".join(map(str, default))}]`'
    if isinstance(default, bool):
        return f'`{default}`'.lower()
    return f'`{default!r}`'.replace("'", '') if default != '' else "`''`"


def _range(row: Declared) -> str:
    for limits in (*row.descriptor.floating_point_range, *row.descriptor.integer_range):
        highest = '' if limits.to_value >= 2**63 - 1 else f'{limits.to_value:g}'
        return f'{limits.from_value:g} ... {highest}'.strip()
    return ''


def main():
    """Rewrite every document that is not as it should be."""
    nodes = declarations()
    for path in map(ROOT.joinpath, DOCUMENTS):
        before = path.read_text('utf-8')
        after = written(before, nodes)
        if after != before:
            path.write_text(after, 'utf-8')
            print(f'wrote {path.relative_to(ROOT)}')


if __name__ == '__main__':
    main()

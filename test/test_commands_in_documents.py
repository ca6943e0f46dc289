"""Command lines in the documents: their programs take them, as far as one can tell unrun."""
from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from training import rft, sft
from vlnr1_ros.__main__ import VERBS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ('README.md', 'docs/training.md', 'docs/paper_index.md')
BLOCK = re.compile(r'^```\w*\n(.*?)^```', re.MULTILINE | re.DOTALL)
INLINE = re.compile(r'`(vlnr1 [^`]+|python -m training[^`]+)`')
FILE = 'sft_2b_r2r'
"""The recipe that stands for any: FILE in the index."""


def blocks(name):
    """Commands in the code blocks of a document, one for each program that a line starts."""
    for block in BLOCK.findall((ROOT / name).read_text(encoding='utf-8')):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index('&&') if '&&' in words else len(words)
                yield words[:end]
                words = words[end + 1:]


def program(words):
    """(module, its arguments) of a command, None for a program that is not ours."""
    words = [word.replace('FILE', FILE) for word in words]
    if words and words[0] == 'vlnr1':
        count = 2 if ' '.join(words[1:3]) in VERBS else 1
        return VERBS[' '.join(words[1:1 + count])][0], words[1 + count:]
    if '-m' in words and words[words.index('-m') + 1].startswith('training.'):
        at = words.index('-m') + 1   # of python, accelerate launch or torchrun
        return words[at], words[at + 1:]
    return None


COMMANDS = {f'{name}: {" ".join(words)}': program(words)
            for name in DOCUMENTS for words in blocks(name) if program(words)}


class Parsed(Exception):
    """Instead of what a program would do next."""


@pytest.fixture
def only_parse(monkeypatch):
    """Every program ends where it has read its arguments."""
    parse = argparse.ArgumentParser.parse_known_args

    def stop(self, *arguments, **more):
        _, unknown = parse(self, *arguments, **more)
        if unknown:
            self.error(f'unrecognized arguments: {" ".join(unknown)}')
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_known_args', stop)


@pytest.mark.parametrize('command', COMMANDS, ids=lambda command: command[:72])
def test_its_program_takes_it(command, request, monkeypatch):
    module, told = COMMANDS[command]
    monkeypatch.chdir(ROOT)
    if told[-1:] == ['...']:
        importlib.import_module(module)
    elif module in ('training.sft', 'training.rft') and '--help' not in told:
        # their settings say which numbers go together as well; recipes are for GPUs
        stage = {'training.sft': sft, 'training.rft': rft}[module]
        stage.parse([*told, '--use_cpu', '--bf16', 'false'])
    else:
        request.getfixturevalue('only_parse')
        with pytest.raises((Parsed, SystemExit)) as end:
            importlib.import_module(module).main(told)
        assert end.type is Parsed or end.value.code == 0


@pytest.mark.parametrize('name', DOCUMENTS)
def test_programs_named_in_the_text_exist(name):
    for text in INLINE.findall((ROOT / name).read_text(encoding='utf-8')):
        module, _ = program(text.split())
        assert (ROOT / f'{module.replace(".", "/")}.py').is_file(), text


def test_a_flag_that_does_not_exist_would_be_noticed(only_parse, capsys):
    assert len(COMMANDS) > 20
    with pytest.raises(SystemExit):
        importlib.import_module('training.evaluate').main(['--policy', 'x', '--speed', '3'])
    assert '--speed' in capsys.readouterr().err

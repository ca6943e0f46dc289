"""The `vlnr1` program as a person runs it."""

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlnr1_ros.__main__ import VERBS
from vlnr1_ros.command import run
from vlnr1_ros.navigation.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def vlnr1(*arguments, cwd=ROOT):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run([sys.executable, '-m', 'vlnr1_ros', *arguments], cwd=cwd, timeout=60,
                          env=environment, capture_output=True, text=True)


def test_help_lists_every_verb():
    done = vlnr1('--help')
    assert done.returncode == 0
    assert all(f'  {verb} ' in done.stdout for verb in VERBS)


def test_no_verb_is_an_error_with_help():
    done = vlnr1()
    assert done.returncode == 2
    assert 'usage: vlnr1' in done.stderr


def test_unknown_verb_names_the_close_one():
    done = vlnr1('evalute')
    assert done.returncode == 2
    assert done.stderr == "vlnr1: error: unknown verb 'evalute'; did you mean evaluate?\n"


def test_a_verb_of_two_words():
    assert 'did you mean bench sim?' in vlnr1('bench').stderr
    assert vlnr1('bench', 'sim', '--help').stdout.startswith('usage: vlnr1 bench sim ')


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_has_a_main_that_takes_arguments(verb):
    # read, not imported: importing all of them takes longer than all other tests here
    path = ROOT / (VERBS[verb][0].replace('.', '/') + '.py')
    mains = [node for node in ast.parse(path.read_text(encoding='utf-8')).body
             if isinstance(node, ast.FunctionDef) and node.name == 'main']
    assert [argument.arg for argument in mains[0].args.args] == ['argv']


@pytest.mark.parametrize('verb', ['worlds', 'card', 'report', 'doctor'])
def test_help_of_a_verb_calls_it_by_its_name(verb):
    done = vlnr1(verb, '--help')
    assert done.returncode == 0
    assert done.stdout.startswith(f'usage: vlnr1 {verb} ')


def test_bad_input_is_one_line_and_code_2(tmp_path):
    done = vlnr1('card', str(tmp_path / 'nowhere'), '--turn-deg', '30')
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert 'nowhere' in done.stderr and 'Traceback' not in done.stderr


def raising(error):
    def main(argv):
        raise error
    return main


@pytest.mark.parametrize('error, code, said', [
    (UserError('the value 7\nis too large'), 2, 'vlnr1 x: error: the value 7 is too large\n'),
    (ModuleNotFoundError("No module named 'trl'", name='trl'), 2,
     "vlnr1 x: error: trl is not installed: pip install 'vlnr1_ros[train]'\n"),
    (OSError(errno.ENOSPC, 'No space left', '/data/a.bin'), 2,
     'vlnr1 x: error: the disk is full at /data/a.bin: free space and repeat\n'),
    (RuntimeError('I/O error: No space left on device (os error 28)'), 2,
     'vlnr1 x: error: the disk is full at an output file: free space and repeat\n'),
    (PermissionError(errno.EACCES, 'Permission denied', '/root/x'), 2,
     'vlnr1 x: error: /root/x: Permission denied; give another path\n'),
    (KeyboardInterrupt(), 130, ''),
])
def test_how_a_program_ends(error, code, said, capsys):
    assert run('x', raising(error), []) == code
    assert capsys.readouterr().err == said


def test_defects_are_not_hidden():
    with pytest.raises(PermissionError):
        run('x', raising(PermissionError(errno.EACCES, 'no')), [])
    with pytest.raises(ValueError, match='a defect'):
        run('x', raising(ValueError('a defect')), [])
    with pytest.raises(ConnectionResetError):
        run('x', raising(ConnectionResetError(errno.ECONNRESET, 'no', 'file')), [])


def test_exit_code_of_main_is_kept():
    assert run('x', lambda argv: 1, []) == 1
    assert run('x', lambda argv: None, []) == 0


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        ['bash', '-c', f'set -o pipefail; {sys.executable} -c "'
         'import sys\nfrom vlnr1_ros.command import run\n'
         'def main(argv):\n  while True: print(1)\n'
         'sys.exit(run(\'x\', main, []))" | head -n 1'],
        cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == '1\n'
    assert done.stderr == ''


def test_doctor_runs_from_anywhere(tmp_path):
    done = vlnr1('doctor', cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    for about in ('python', 'model', 'ROS 2', 'simulator', 'training', 'disk'):
        assert f' {about}: ' in done.stdout


def test_doctor_says_what_is_wrong(monkeypatch, capsys):
    from vlnr1_ros import doctor

    versions = {'opencv-python': '4.11.0', 'opencv-python-headless': '5.0.0'}
    monkeypatch.setattr(doctor, 'version_of', lambda name: versions.get(name))
    assert doctor.main([]) == 1
    assert 'WRONG  opencv: opencv-python 4.11.0, opencv-python-headless 5.0.0' \
        in capsys.readouterr().out

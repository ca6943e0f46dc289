"""Tables of the ablations: the commands that fill them, and what their numbers mean."""
from dataclasses import replace
from pathlib import Path

import pytest

from training import packed_sft, rft, sft, tables
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.resources import given_or_shipped

NANO = given_or_shipped('models/nano')


def lines(successes):
    return [{'episode_id': str(number), 'grounded_success': float(good)}
            for number, good in enumerate(successes)]


def test_differences_are_of_the_same_episodes_and_of_the_mean_over_seeds():
    base = [lines([1, 0, 0, 1])]
    found = {'as it is': base, 'better': [lines([1, 1, 0, 1]), lines([1, 1, 1, 0])]}
    change, (low, high) = tables.difference(found['better'], base)
    assert change == pytest.approx((0 + 1 + 0.5 - 0.5) / 4) and low <= change <= high
    rows = tables.markdown('what', found).splitlines()
    assert rows[2] == '| as it is | 1 | 4 | 50.0 |  |'
    assert rows[3].startswith('| better | 2 | 4 | 75.0 | +25.0 [')
    rows = tables.markdown('what', found, 'better').splitlines()
    assert rows[2].startswith('| as it is | 1 | 4 | 50.0 | -25.0 [')
    assert rows[3] == '| better | 2 | 4 | 75.0 |  |'
    assert all(table.base in (tables.PLAIN, *(row.name for row in table.rows))
               for table in tables.TABLES.values())


def test_an_error_is_a_failure_and_a_missing_episode_is_not_compared():
    base = [lines([1, 1])]
    mine = [[{'episode_id': '0', 'error': 'lost'}]]
    assert tables.difference(mine, base)[0] == -1.0


@pytest.mark.parametrize('name', tables.TABLES)
def test_every_row_is_a_command_that_its_program_takes(name, tmp_path):
    args = tables.parsed([name, '--ego', 'ego', '--dagger', 'own', '--apartments', 'flats',
                          '--model', str(NANO), '--steps', '8'])
    folders = {'ego': 'ego', 'dagger': 'own', 'apartments': 'flats'}
    for row in tables.TABLES[name].rows:
        told = tables.arguments(row, tables.TABLES[name], args, 3, tmp_path)
        data, steps = [folders[key] for key in row.data], max(1, round(8 * row.pace))
        if row.verb == 'packed_sft':
            what = packed_sft.parsed(told)
            assert (what.ego, what.steps, what.seed) == (data, steps, 3)
            packed_sft.tier_weights(what.tiers)
            continue
        what, how = {'sft': sft.parse, 'rft': rft.parse}[row.verb](told)
        assert (what.data, how.max_steps, how.seed) == (data, steps, 3)
        assert what.tiers == list(tables.TABLES[name].train_tiers or tables.TABLES[name].tiers)
        replace(NavigationCard.load(NANO), **row.card)   # UserError for what no card takes


def test_tables_share_the_run_that_they_have_in_common_and_no_other():
    # generalisation starts from another checkpoint, for which there is another --work
    names = {(name, row.name): tables.folder_name(row, table, 0)
             for name, table in tables.TABLES.items() if name != 'generalisation'
             for row in table.rows}
    shared = {names['reward', 'time-decayed'], names['gamma', 'gamma 0.7'],
              names['group', 'group of 8']}
    assert len(shared) == 1
    assert len(set(names.values())) == len(names) - 2
    assert all(len(name) < 200 and '/' not in name for name in names.values())


def test_runs_of_other_settings_are_not_mixed(tmp_path):
    tables.keep_settings(tables.parsed(['gamma', '--work', str(tmp_path), '--steps', '8']))
    with pytest.raises(UserError, match='was made with steps 8, this run has 9'):
        tables.keep_settings(tables.parsed(['gamma', '--work', str(tmp_path), '--steps', '9']))


def test_the_picture_shows_a_bar_a_row(tmp_path):
    found = {'as it is': [lines([1, 0])], 'a': [lines([1, 1])], 'b': [lines([0, 0])]}
    tables.draw('what', found, tmp_path / 'figures' / 'what.png')
    assert Path(tmp_path / 'figures/what.png').read_bytes().startswith(b'\x89PNG')

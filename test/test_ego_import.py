"""Samples of other programs: what is read from them, mended, dropped and refused."""
import json
import shutil
import tracemalloc

import numpy as np
import pytest
import released_files as released
from PIL import Image

from training import prompt_of_data
from training.conversation_file import conversations
from training.ego_dataset import EgoDataset
from training.ego_files import shifted_labels
from vlnr1_ros.__main__ import call
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Average


@pytest.fixture(scope='module')
def made(apartments, tmp_path_factory):
    """(folder of raw episode folders, their records): turns of 15 degrees, frames of 112x84."""
    root = tmp_path_factory.mktemp('made')
    assert call('ego', ['--data', str(apartments.data), '--split', apartments.split, '--out',
                        str(root / 'ego'), '--turn-deg', '15', '--episodes', '5', '--tier',
                        'room', '--camera', '112x84']) == 0
    return root / 'raw', released.write_folders(root / 'ego', apartments.split, root / 'raw')


@pytest.fixture
def raw(made, tmp_path):
    """A copy of the raw folders to break."""
    return shutil.copytree(made[0], tmp_path / 'raw')


def write(path, rows):
    path.write_text(json.dumps(rows, indent=2))
    return path


def run(source, out, *more):
    return call('ego import', [str(source), '--out', str(out), '--preset', 'r2r', *more])


def test_labels_and_turns_are_mended_and_the_prompt_is_kept(made, tmp_path, capsys):
    raw, records = made
    source, out = write(tmp_path / 'a.json', released.rows(records)), tmp_path / 'out'
    assert run(source, out, '--images', str(raw)) == 0
    text = capsys.readouterr().out
    assert f'{len(records)} episodes with {sum(map(len, records))} frames imported' in text
    assert 'explains 100.0%' in text and 'with the one after it in 100%' in text
    assert '30 in the texts, 15 in the images; texts and card now say 15' in text
    assert 'mended: nothing' in text and 'dropped: nothing' in text
    card = NavigationCard.load(out)
    assert card.action_set == ActionSet(turn_deg=15.0) and card.horizon == released.HORIZON
    assert card.sampler == Average(released.HISTORY)
    assert (card.camera.width, card.camera.height, card.camera.hfov_deg) == (112, 84, 90.0)
    for count in (0, 1, 4):
        assert card.template.conversation("Don't go.", count, card.action_set, 3) \
            == released.TEMPLATE.conversation("Don't go.", count, released.SAYS, 3).replace(
                '30 degrees', '15 degrees')
    data = EgoDataset(out)
    assert sorted(e.instruction for e in data.episodes) == sorted(r.instruction for r in records)
    by_name = {record.folder.parent.name: record for record in records}
    for episode in data.episodes:
        record = by_name[episode.folder.parent.name]
        assert episode.labels.tolist() == shifted_labels(record.actions, released.HORIZON)
        assert (episode.folder / 'step_1.jpg').read_bytes() \
            == (record.folder / 'step_1.jpg').read_bytes()
    assert call('ego check', [str(out)]) == 0
    capsys.readouterr()
    assert run(source, out, '--images', str(raw)) == 0, 'the same command again'
    assert f'0 episodes with 0 frames imported, {len(records)} were there' \
        in capsys.readouterr().out


def test_without_action_lists_the_offset_stays_and_the_check_tells(made, raw, tmp_path, capsys):
    for path in raw.glob('*/*/action_list.json'):
        path.unlink()
    source, out = write(tmp_path / 'a.json', released.rows(made[1])), tmp_path / 'out'
    assert run(source, out, '--images', str(raw)) == 0
    assert '5  episodes without action_list.json, whose labels stay' in capsys.readouterr().out
    assert call('ego check', [str(out)]) == 1
    text = capsys.readouterr().out
    assert 'the first label of a frame is the action 1 frames later' in text
    assert text.count('FAULT') == 1, text


def test_the_words_of_a_python_repr_are_read(made, raw, tmp_path, capsys):
    _, records = made
    apostrophe = next(raw.glob('*/*/instruction.txt'))
    apostrophe.write_text("Don't stop before the table.")
    rows = released.rows(records, 0, released.python_repr)
    for row in rows:
        if f'/{apostrophe.parent.parent.name}/' in row['images'][0]:
            old = next(r for r in records if r.folder.parent.name
                       == apostrophe.parent.parent.name).instruction
            question = row['conversations'][0]
            question['value'] = question['value'].replace(repr(old),
                                                          repr("Don't stop before the table."))
    source, out = write(tmp_path / 'a.json', rows), tmp_path / 'out'
    for there in (True, False):   # with instruction.txt, and from the prompts alone
        assert run(source, out, '--images', str(raw)) == 0
        text = capsys.readouterr().out
        assert 'begin with the action due in 100%' in text and 'dropped: nothing' in text
        assert 'prompts without the quotes of a Python repr' in text
        assert '  prompts without a word for the empty history' in text
        assert NavigationCard.load(out).template.text == released.TEMPLATE.text.replace(
            '30 degrees', '15 degrees'), there
        assert "Don't stop before the table." in {e.instruction for e in EgoDataset(out).episodes}
        shutil.rmtree(out)
        for path in raw.glob('*/*/instruction.txt'):
            path.unlink()


def test_raw_folders_alone(made, tmp_path, capsys):
    out = tmp_path / 'out'
    assert run(made[0], out, '--frame-size', '56x42', '--horizon', '4') == 0
    assert '15 by the preset, 15 in the images' in capsys.readouterr().out
    data = EgoDataset(out)
    assert data.settings.horizon == 4 and data.episodes[0].frames([0])[0].shape == (42, 56, 3)
    assert call('ego check', [str(out)]) == 0


def test_an_imported_folder_is_trained_on(made, tmp_path):
    from training.sft import make_trainer, parse
    from training.tiny import build_tiny

    out, model = tmp_path / 'out', tmp_path / 'model'
    source = write(tmp_path / 'a.json', released.rows(made[1]))
    assert run(source, out, '--images', str(made[0]), '--frame-size', '56x28') == 0
    card = NavigationCard.load(out)
    build_tiny('qwen2_vl', model, ['Go.'], card, phrase_tokens=False, hidden=64, layers=1,
               vision_hidden=32, vision_layers=1)
    (model / 'navigation.json').unlink()   # as a published checkpoint comes
    trainer, trained = make_trainer(*parse([
        '--model', str(model), '--data', str(out), '--output_dir', str(tmp_path / 'run'),
        '--use_cpu', '--max_steps', '1', '--per_device_train_batch_size', '2', '--report_to',
        'none', '--save_strategy', 'no', '--disable_tqdm', 'true']))
    assert (trained.template, trained.sampler, trained.horizon) \
        == (card.template, card.sampler, card.horizon)
    assert np.isfinite(trainer.train().training_loss)


def damage(case, raw, rows, records):
    """Spoil the first episode's files, or its rows; returns them."""
    folder = raw / records[0].folder.parent.name / records[0].folder.name
    actions = records[0].actions.tolist()
    turn = next(i for i, a in enumerate(actions) if a in (2, 3))
    if case == 'gone':
        (folder / 'step_1.jpg').unlink()
    elif case == 'cut':
        (folder / 'step_1.jpg').write_bytes((folder / 'step_1.jpg').read_bytes()[:-400])
    elif case == 'size':
        Image.new('RGB', (64, 48)).save(folder / 'step_1.jpg')
    elif case == 'frozen':
        shutil.copy(folder / f'step_{turn}.jpg', folder / f'step_{turn + 1}.jpg')
    elif case == 'more frames':
        shutil.copy(folder / 'step_0.jpg', folder / f'step_{len(actions)}.jpg')
    elif case in ('ids', 'unfinished', 'stop'):
        actions[{'ids': 0, 'unfinished': -1, 'stop': 1}[case]] = {'ids': 5, 'unfinished': 1,
                                                                  'stop': 0}[case]
        (folder / 'action_list.json').write_text(json.dumps(actions))
    elif case == 'damaged list':
        (folder / 'action_list.json').write_text('[1, 2')
    elif case == 'twice':
        rows.append(rows[0])
    elif case == 'contradiction':
        other = 'D. Stop, D. Stop, D. Stop'
        rows.append({**rows[0], 'conversations': [rows[0]['conversations'][0],
                                                  {'from': 'gpt', 'value': other}]})
    elif case == 'lacking':
        del rows[1]
    elif case == 'prompt':
        rows[0]['conversations'][0]['value'] += '!'
    elif case == 'answer':
        rows[0]['conversations'][1]['value'] = 'E. Jump, D. Stop, D. Stop'
    elif case == 'length':
        rows[0]['conversations'][1]['value'] = 'D. Stop, D. Stop'
    elif case == 'path':
        rows[0]['images'][-1] = 'pictures/7.jpg'
    return rows


@pytest.mark.parametrize('case, fewer, words', [
    ('gone', 1, '1  episodes with a frame missing on disk (first: ep_'),
    ('cut', 1, 'no image or cut short'), ('size', 1, 'another size than 112x84'),
    ('frozen', 1, 'the same frame after a turn'), ('more frames', 1, 'more frames than actions'),
    ('ids', 1, 'other actions than 0 to 3'), ('unfinished', 1, 'do not end with stop'),
    ('stop', 1, 'a stop before the end'), ('damaged list', 1, 'damaged action_list.json'),
    ('twice', 0, '1  records that stand there twice'),
    ('contradiction', 0, '1  records that contradict another of the same frame'),
    ('lacking', 0, '1  episodes that lacked records, made from action_list.json'),
    ('prompt', 0, '1  records whose prompt has another form'),
    ('answer', 0, '1  records whose answer is not made of'),
    ('length', 0, '1  records whose answer has not 3 actions'),
    ('path', 0, '1  records whose newest image is not ep_E/traj_T/step_I'),
])
def test_what_is_broken_is_counted_and_the_rest_imported(case, fewer, words, made, raw, tmp_path,
                                                         capsys):
    records = made[1]
    rows = damage(case, raw, released.rows(records), records)
    assert run(write(tmp_path / 'a.json', rows), tmp_path / 'out', '--images', str(raw)) == 0
    assert words in capsys.readouterr().out
    assert len(EgoDataset(tmp_path / 'out').episodes) == len(records) - fewer


@pytest.mark.parametrize('case, words', [
    ('no source', ['nowhere', 'does not exist']),
    ('no images', ['none of the frames', '--images']),
    ('cut file', ['record', 'cut short']),
    ('two bases', ['elsewhere/data', 'other/data', '--base']),
    ('other files', ['ep_E/traj_T/step_I.jpg']),
    ('other answers', ['A. Move forward 25 cm', 'VLN-Ego']),
    ('one sentence', ['instruction.txt']),
    ('nothing left', ['nothing of', '5 episodes', 'do not end with stop']),
    ('other samples there', ['another card', '--out']),
    ('no episodes', ['none of the frames']),
])
def test_bad_input_ends_in_one_line(case, words, made, raw, tmp_path, capsys):
    records = made[1]
    rows, more, out = released.rows(records), ['--images', str(raw)], tmp_path / 'out'
    source = tmp_path / 'a.json'
    if case == 'no source':
        source = tmp_path / 'nowhere'
    elif case == 'no images':
        more = []
    elif case == 'two bases':
        rows[-1]['images'] = [name.replace('elsewhere', 'other') for name in rows[-1]['images']]
    elif case == 'other files':
        rows = [{**row, 'images': ['x.jpg'] * len(row['images'])} for row in rows]
    elif case == 'other answers':
        for row in rows:
            row['conversations'][1]['value'] = 'go on'
    elif case == 'one sentence':
        rows = rows[:len(records[0])]
        for path in raw.glob('*/*/instruction.txt'):
            path.unlink()
    elif case == 'nothing left':
        for path in raw.glob('*/*/action_list.json'):
            path.write_text('[1, 1]')
    elif case == 'other samples there':
        assert run(raw, out, '--horizon', '4') == 0
    elif case == 'no episodes':
        source, more = tmp_path / 'empty', []
        source.mkdir()
    if source.suffix:
        write(source, rows)
    if case == 'cut file':
        source.write_text(source.read_text()[:-1000])
    capsys.readouterr()
    assert run(source, out, *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('vlnr1 ego import: error:') and all(w in error for w in words), error
    assert not (out / 'navigation.json').exists() or case == 'other samples there'


def test_a_long_file_is_never_whole_in_memory(tmp_path):
    path, row = tmp_path / 'long.json', {
        'conversations': [{'value': '<image>' + 'go ' * 500}, {'value': 'D. Stop'}],
        'images': ['a.jpg']}
    with path.open('w') as file:
        file.write('[\n' + ',\n'.join([json.dumps(row)] * 12000) + ']')
    tracemalloc.start()
    count = sum(1 for _ in conversations(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 12000 and path.stat().st_size > 15e6 and peak < 6e6


@pytest.mark.parametrize('text, word', [
    ('', 'record 0'), ('{}', 'record 0'), ('[]', 'no records'), ('[{"conversations": []}]', '0'),
    ('[{"conversations": [{"value": "<image>"}, {"value": "x"}], "images": ["a"]} 7]', 'record 1'),
])
def test_what_is_no_list_of_conversations_is_refused(text, word, tmp_path):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(UserError, match=word):
        list(conversations(tmp_path / 'a.json'))


def test_sentences_that_begin_and_end_alike_keep_their_words():
    for form in ('Order: "{}".\nSeen: ', 'Follow this: {}\nSeen: '):
        prompts = [form.format(f'Go to the {colour} box.') + '<image> <image> <image> now <image>!'
                   for colour in ('red', 'grey')]
        template = prompt_of_data.template_of((prompt, None) for prompt in prompts)
        assert template.text == form.format('{instruction}') + '{history} now {current}!'
        assert template.history_separator == ' '

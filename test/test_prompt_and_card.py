"""The prompt template, instructions, the camera and navigation.json."""
import json

import numpy as np
import pytest

from vlnr1_ros.navigation import card as card_module
from vlnr1_ros.navigation.actions import ActionSet
from vlnr1_ros.navigation.camera import Camera, resize
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import Growing
from vlnr1_ros.navigation.prompt import Template, check_instruction


def test_blocks_keep_order_and_count():
    template = Template('Do: {instruction}. Past: {history} Now: {current} ({n} of {options})')
    blocks = template.blocks('go', 2, ActionSet(), 6)
    assert [b['type'] for b in blocks] == ['text', 'image', 'image', 'text', 'image', 'text']
    assert blocks[0]['text'] == 'Do: go. Past: ' and '6 of A. Move forward' in blocks[-1]['text']
    assert template.conversation('go', 2, ActionSet(), 6).count('<image>') == 3


def test_a_separator_stands_between_history_frames_and_the_instruction_is_read_back():
    template = Template('Do "{instruction}". {history}; {current}', ', ')
    blocks = template.blocks('go', 3, ActionSet(), 6)
    assert [b.get('text') for b in blocks] == ['Do "go". ', None, ', ', None, ', ', None, '; ',
                                               None]
    for count in (0, 1, 3):
        said = template.conversation('go "on"', count, ActionSet(), 6)
        assert template.instruction_of(said, count, ActionSet(), 6) == 'go "on"'
        assert template.instruction_of(said, count + 1, ActionSet(), 6) is None
    card = NavigationCard(template=template)
    assert NavigationCard.from_dict(card.to_dict()) == card
    older = {k: v for k, v in card.to_dict().items() if k != 'history_separator'}
    assert NavigationCard.from_dict(older).template.history_separator == ''


def test_no_history_leaves_one_image_and_braces_are_text():
    template = Template('{instruction}{history}{current}')
    blocks = template.blocks('use {n} {curly', 0, ActionSet(), 6)
    assert blocks == [{'type': 'text', 'text': 'use {n} {curly'}, {'type': 'image'}]


@pytest.mark.parametrize('text', ['{instruction}{history}', '{current}{history}', '',
                                  '{instruction}{history}{current}{n}{n}'])
def test_templates_without_their_slots_are_refused(text):
    with pytest.raises(UserError, match='template'):
        Template(text)


def test_instructions():
    assert check_instruction('  go\n to  the door ') == 'go to the door'
    for bad, word in (('', 'empty'), (' \n', 'empty'), ('x' * 2001, '2001')):
        with pytest.raises(UserError, match=word):
            check_instruction(bad)


def test_camera_geometry_and_differences():
    camera = Camera(640, 480, 90.0, 1.25)
    assert camera.fx == pytest.approx(320) and camera.vfov_deg == pytest.approx(73.74, abs=0.01)
    assert Camera.from_intrinsics(640, 480, camera.fx, 1.25).hfov_deg == pytest.approx(90)
    assert not camera.differences(Camera(320, 240, 90.5, 1.2))
    found = camera.differences(Camera(640, 640, 79.0, 0.88))
    assert len(found) == 3 and '79.0' in found[1] and '90.0' in found[1] and '0.88' in found[2]
    with pytest.raises(UserError, match='calibrate'):
        Camera.from_intrinsics(640, 480, 0.0, 1.0)


def test_resize_averages_areas():
    checker = (np.indices((8, 8)).sum(0) % 2 * 200).astype(np.uint8)[..., None].repeat(3, 2)
    assert (resize(checker, 4, 4) == 100).all()


def test_card_survives_the_disk(tmp_path):
    card = NavigationCard(ActionSet(turn_deg=15), 8, 2, Growing(), stop_bias=1.5, blind=True,
                          frame_width=84, frame_height=84, recipe={'steps': 3})
    card.save(tmp_path)
    assert NavigationCard.load(tmp_path) == card
    assert not list(tmp_path.glob('*.tmp'))


def test_missing_card_names_the_command(tmp_path):
    with pytest.raises(UserError, match='vlnr1 card'):
        NavigationCard.load(tmp_path)


@pytest.mark.parametrize('change', [
    lambda d: d.pop('camera'), lambda d: d.update(format=99), lambda d: d.update(horizon=0),
    lambda d: d['actions'].update(turn_deg=15.0), lambda d: d.update(execute=7),
    lambda d: d['history'].update(kind='?'), lambda d: d.update(prompt='no slots'),
    lambda d: d['actions'].update(turn_deg='thirty'), lambda d: d.update(prompt=7),
    lambda d: d.update(horizon=6.5), lambda d: d['frame'].update(width=0),
    lambda d: d.update(stop_bias=float('nan')), lambda d: d.update(history=['kind'])])
def test_a_card_that_contradicts_itself_is_refused(tmp_path, change):
    path = NavigationCard().save(tmp_path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match='navigation.json'):
        NavigationCard.load(tmp_path)


def test_truncated_card_is_refused(tmp_path):
    path = NavigationCard().save(tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(UserError, match='navigation.json'):
        NavigationCard.load(tmp_path)


def test_card_command_writes_what_load_reads(tmp_path, capsys):
    assert card_module.main([str(tmp_path), '--turn-deg', '15', '--camera', '640x480',
                             '--frame', '320x240', '--history', 'average']) == 0
    card = NavigationCard.load(tmp_path)
    assert card.action_set.turn_deg == 15 and card.frame_width == 320
    with pytest.raises(UserError, match='--force'):
        card_module.main([str(tmp_path), '--turn-deg', '15'])
    with pytest.raises(UserError, match='no folder'):
        card_module.main([str(tmp_path / 'absent'), '--turn-deg', '15'])

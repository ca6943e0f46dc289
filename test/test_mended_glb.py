"""Copies of meshes for habitat-sim: what is missing is left out, everything else stays."""
import json

import numpy as np
from PIL import Image
from small_scenes import GREEN, RED, box, write_stage
from test_other_scenes import edited, textured_box

from sim_bridge.embedded.glb import load_glb
from sim_bridge.mended_glb import mended


def two_boxes(folder):
    return write_stage(folder, 'two', [box('red', (0, 0, 0), (1, 1, 1), RED),
                                       box('green', (2, 0, 0), (3, 1, 1), GREEN)])


def colours(path):
    return {mesh.name: tuple(mesh.image[0, 0]) for mesh in load_glb(path)}


def test_a_whole_scene_is_opened_itself(tmp_path):
    path = str(two_boxes(tmp_path))
    assert mended(path, tmp_path / 'copy', True) == (path, [])
    assert mended(str(tmp_path / 'two.glb'), tmp_path / 'copy') == (str(tmp_path / 'two.glb'), [])
    for other in ('NONE', str(tmp_path / 'gone.glb'), 'some_scene_instance'):
        assert mended(other, tmp_path / 'copy') == (other, [])
    assert not (tmp_path / 'copy').exists()


def test_lost_pictures_are_left_out_and_the_rest_is_kept(tmp_path):
    path = two_boxes(tmp_path / 'scenes')

    def lose_one(doc):
        doc['images'][0] = {'uri': 'gone picture.png'}

    def cut_one(doc):
        doc['bufferViews'][doc['images'][0]['bufferView']]['byteLength'] -= 20

    def unsourced(doc):
        del doc['textures'][0]['source']

    for number, (change, name) in enumerate(((lose_one, 'gone picture.png'), (cut_one, 'image 0'),
                                             (unsourced, 'texture 0'))):
        two_boxes(tmp_path / 'scenes')
        edited(path.with_name('two.glb'), change)
        copy, lost = mended(str(path), str(tmp_path / f'copy_{number}'))
        assert lost == [name] and copy == str(tmp_path / f'copy_{number}/two.stage_config.json')
        asset = json.loads((tmp_path / f'copy_{number}/two.stage_config.json').read_text())
        assert asset['render_asset'] == 'two.glb' and asset['up'] == [0, 1, 0]
        seen = colours(tmp_path / f'copy_{number}/two.glb')
        assert sorted(seen.values()) == sorted([(255, 255, 255), seen['green']])
        assert seen['green'] in (GREEN, (255, 255, 255))


def test_a_bare_mesh_stays_bare_and_pictures_beside_it_are_found(tmp_path):
    path = textured_box(tmp_path)

    def beside(doc):
        doc['images'][0] = {'uri': 'a%20picture.png'}
        doc['images'].append({'uri': 'gone.png'})
        doc['textures'].append({'source': 1})
        doc['materials'].append({'emissiveTexture': {'index': 1}})

    Image.fromarray(np.full((4, 4, 3), RED, np.uint8)).save(tmp_path / 'a picture.png')
    copy, lost = mended(str(edited(path, beside)), str(tmp_path / 'copy'))
    assert lost == ['gone.png'] and copy == str(tmp_path / 'copy/one.glb')
    assert sorted(p.name for p in (tmp_path / 'copy').iterdir()) == ['one.glb']
    assert colours(copy) == {load_glb(copy)[0].name: RED}


def test_surfaces_without_material_get_one_where_reflections_are_left_out(tmp_path):
    def strip(doc):
        del doc['meshes'][0]['primitives'][0]['material']

    path = str(edited(textured_box(tmp_path), strip))
    assert mended(path, str(tmp_path / 'copy')) == (path, [])
    copy, lost = mended(path, str(tmp_path / 'copy'), without_reflections=True)
    assert lost == [] and load_glb(copy)[0].image.max() == 255

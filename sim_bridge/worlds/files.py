"""Files that are whole or absent, and the same bytes for the same content."""
from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import zlib

from vlnr1_ros.navigation.errors import UserError


def write_bytes(path, data):
    """Write to a temporary name beside the target, then rename. UserError when it cannot."""
    part = f'{path}.{os.getpid()}.tmp'
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(part, 'wb') as file:
            file.write(data)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise UserError(f'cannot write {path}: {error.strerror}; make room there or choose '
                        'another folder') from error


def write_json_gz(path, value):
    buffer = io.BytesIO()
    with gzip.GzipFile(filename='', mode='wb', fileobj=buffer, mtime=0, compresslevel=6) as file:
        file.write(json.dumps(value, separators=(',', ':')).encode())
    write_bytes(path, buffer.getvalue())


def read_json_gz(path):
    """What `write_json_gz` wrote. UserError when it is damaged or missing."""
    try:
        with gzip.open(path, 'rt', encoding='utf-8') as file:
            return json.load(file)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f'{path} cannot be read ({error}); remove it and run the same command '
                        'again') from error

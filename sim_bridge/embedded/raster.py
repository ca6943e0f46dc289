"""Compiled software rasteriser: a visibility buffer first, then one shading pass.

Camera space: x right, y up, looking along -z. Within a triangle 1/z, u/z and v/z are linear in
pixel coordinates; each is kept as three coefficients (per column, per row, constant). Without
fast-math the same input gives the same bytes.
"""
from __future__ import annotations

import numba as nb
import numpy as np

_JIT = {'nopython': True, 'nogil': True, 'cache': True, 'error_model': 'numpy'}
NEAR_M = 0.01
MAX_LEVELS = 12


@nb.jit(**_JIT)
def visible_objects(centres, radii, position, rotation, tan_x, tan_y):
    """Bool per object: its bounding sphere reaches into the view pyramid."""
    count = centres.shape[0]
    keep = np.zeros(count, np.bool_)
    norm_x, norm_y = np.sqrt(1 + tan_x * tan_x), np.sqrt(1 + tan_y * tan_y)
    for k in range(count):
        d0, d1, d2 = (centres[k, 0] - position[0], centres[k, 1] - position[1],
                      centres[k, 2] - position[2])
        x = d0 * rotation[0, 0] + d1 * rotation[1, 0] + d2 * rotation[2, 0]
        y = d0 * rotation[0, 1] + d1 * rotation[1, 1] + d2 * rotation[2, 1]
        z = -(d0 * rotation[0, 2] + d1 * rotation[1, 2] + d2 * rotation[2, 2])
        r = radii[k]
        keep[k] = (z > -r and abs(x) - z * tan_x < r * norm_x and abs(y) - z * tan_y < r * norm_y)
    return keep


@nb.jit(**_JIT)
def rasterise(triangles, uv, normals, two_sided, first, keep, position, rotation, tan_x, tan_y,
              inverse_z, visible, planes, source):
    """Fills the visibility buffer; returns how many triangles were drawn.

    first: (objects + 1,) start of each object's triangles. inverse_z (H, W) float32 zeros; visible
    (H, W) int32 of -1 receives rows of planes (T, 9), the coefficients of 1/z, u/z, v/z; source
    (T,) the scene's triangle of each row.
    """
    height, width = inverse_z.shape
    scale_x, scale_y = np.float32(0.5 * width / tan_x), np.float32(0.5 * height / tan_y)
    middle_x, middle_y = np.float32(0.5 * width), np.float32(0.5 * height)
    near = np.float32(NEAR_M)
    p = np.empty((3, 3), np.float32)
    poly = np.empty((4, 3), np.float32)
    sx = np.empty(4, np.float32)
    sy = np.empty(4, np.float32)
    left = np.empty(height, np.float32)
    right = np.empty(height, np.float32)
    drawn = 0
    for o in range(keep.shape[0]):
        if not keep[o]:
            continue
        for t in range(first[o], first[o + 1]):
            facing = np.float32(0)
            for k in range(3):
                facing += normals[t, k] * (position[k] - triangles[t, 0, k])
            if facing <= 0 and not two_sided[t]:
                continue
            out_left = out_right = out_low = out_high = out_near = 0
            for k in range(3):
                d0, d1, d2 = (triangles[t, k, 0] - position[0], triangles[t, k, 1] - position[1],
                              triangles[t, k, 2] - position[2])
                x = d0 * rotation[0, 0] + d1 * rotation[1, 0] + d2 * rotation[2, 0]
                y = d0 * rotation[0, 1] + d1 * rotation[1, 1] + d2 * rotation[2, 1]
                z = -(d0 * rotation[0, 2] + d1 * rotation[1, 2] + d2 * rotation[2, 2])
                p[k, 0], p[k, 1], p[k, 2] = x, y, z
                out_left += -x > z * tan_x
                out_right += x > z * tan_x
                out_low += -y > z * tan_y
                out_high += y > z * tan_y
                out_near += z < near
            if out_left == 3 or out_right == 3 or out_low == 3 or out_high == 3 or out_near == 3:
                continue

            # Clip with the near plane, always from the inner to the outer end, so that two
            # triangles cut their common edge at the same point.
            n = 0
            for k in range(3):
                j = 2 if k == 0 else k - 1
                if (p[j, 2] >= near) != (p[k, 2] >= near):
                    a, b = (j, k) if p[j, 2] >= near else (k, j)
                    s = (near - p[a, 2]) / (p[b, 2] - p[a, 2])
                    poly[n, 0] = p[a, 0] + s * (p[b, 0] - p[a, 0])
                    poly[n, 1] = p[a, 1] + s * (p[b, 1] - p[a, 1])
                    poly[n, 2] = near
                    n += 1
                if p[k, 2] >= near:
                    poly[n, 0], poly[n, 1], poly[n, 2] = p[k, 0], p[k, 1], p[k, 2]
                    n += 1
            low_y, high_y = np.float32(1e30), np.float32(-1e30)
            for k in range(n):
                sx[k] = middle_x + poly[k, 0] / poly[k, 2] * scale_x
                sy[k] = middle_y - poly[k, 1] / poly[k, 2] * scale_y
                low_y, high_y = min(low_y, sy[k]), max(high_y, sy[k])
            first_row = int(max(np.float32(0), np.ceil(low_y - np.float32(0.5))))
            last_row = int(min(np.float32(height), np.ceil(high_y - np.float32(0.5)))) - 1
            if first_row > last_row:
                continue
            for row in range(first_row, last_row + 1):
                left[row], right[row] = np.float32(1e30), np.float32(-1e30)
            for k in range(n):
                j = n - 1 if k == 0 else k - 1
                a, b = (j, k) if sy[j] <= sy[k] else (k, j)
                edge_first = int(max(np.float32(0), np.ceil(sy[a] - np.float32(0.5))))
                edge_last = int(min(np.float32(height), np.ceil(sy[b] - np.float32(0.5)))) - 1
                if edge_first > edge_last:
                    continue
                slope = (sx[b] - sx[a]) / (sy[b] - sy[a])
                for row in range(edge_first, edge_last + 1):
                    at = sx[a] + (row + np.float32(0.5) - sy[a]) * slope
                    left[row], right[row] = min(left[row], at), max(right[row], at)

            _plane(p, uv[t], scale_x, scale_y, middle_x, middle_y, planes[drawn])
            iz_x, iz_y, iz_0 = planes[drawn, 0], planes[drawn, 1], planes[drawn, 2]
            for row in range(first_row, last_row + 1):
                start = int(max(np.float32(0), np.ceil(left[row] - np.float32(0.5))))
                stop = int(min(np.float32(width), np.ceil(right[row] - np.float32(0.5))))
                base = iz_0 + iz_y * np.float32(row)
                depth_row, id_row = inverse_z[row], visible[row]
                for column in range(start, stop):
                    iz = base + iz_x * np.float32(column)
                    if iz > depth_row[column]:
                        depth_row[column] = iz
                        id_row[column] = drawn
            source[drawn] = t
            drawn += 1
    return drawn


@nb.jit(**_JIT)
def _plane(p, uv, scale_x, scale_y, middle_x, middle_y, plane):
    """Coefficients of 1/z, u/z, v/z over (column, row, 1): the inverse of the corner matrix."""
    ax, ay, az = np.float64(p[0, 0]), np.float64(p[0, 1]), np.float64(p[0, 2])
    bx, by, bz = np.float64(p[1, 0]), np.float64(p[1, 1]), np.float64(p[1, 2])
    cx, cy, cz = np.float64(p[2, 0]), np.float64(p[2, 1]), np.float64(p[2, 2])
    m00, m01, m02 = by * cz - bz * cy, az * cy - ay * cz, ay * bz - az * by
    m10, m11, m12 = bz * cx - bx * cz, ax * cz - az * cx, az * bx - ax * bz
    m20, m21, m22 = bx * cy - by * cx, ay * cx - ax * cy, ax * by - ay * bx
    determinant = ax * m00 + ay * m10 + az * m20
    r = 0.0 if determinant == 0.0 else 1.0 / determinant
    for k in range(3):
        if k == 0:
            q0, q1, q2 = 1.0, 1.0, 1.0
        else:
            q0, q1, q2 = uv[0, k - 1] * 1.0, uv[1, k - 1] * 1.0, uv[2, k - 1] * 1.0
        per_x = (m00 * q0 + m01 * q1 + m02 * q2) * r / scale_x
        per_y = -(m10 * q0 + m11 * q1 + m12 * q2) * r / scale_y
        constant = (m20 * q0 + m21 * q1 + m22 * q2) * r
        plane[3 * k] = per_x
        plane[3 * k + 1] = per_y
        plane[3 * k + 2] = constant + per_x * (0.5 - middle_x) + per_y * (0.5 - middle_y)


@nb.jit(**_JIT)
def _mixed(p00, p10, p01, p11, part_u, part_v):
    """Bilinear mix of four packed texels; parts are in 256ths. Red and blue share products."""
    red_blue, green = np.uint64(0xFF00FF), np.uint64(0x00FF00)
    rest_u, rest_v = np.uint64(256) - part_u, np.uint64(256) - part_v
    top_rb = ((p00 & red_blue) * rest_u + (p10 & red_blue) * part_u) >> np.uint64(8) & red_blue
    low_rb = ((p01 & red_blue) * rest_u + (p11 & red_blue) * part_u) >> np.uint64(8) & red_blue
    top_g = ((p00 & green) * rest_u + (p10 & green) * part_u) >> np.uint64(8) & green
    low_g = ((p01 & green) * rest_u + (p11 & green) * part_u) >> np.uint64(8) & green
    rb = (top_rb * rest_v + low_rb * part_v + np.uint64(0x800080)) >> np.uint64(8) & red_blue
    g = (top_g * rest_v + low_g * part_v + np.uint64(0x8000)) >> np.uint64(8) & green
    return rb | g


@nb.jit(**_JIT)
def shade(visible, planes, source, texture_of, texels, offsets, log_sides, levels, out):
    """Textures every visible pixel: perspective-correct, bilinear, nearest mip level.

    texels: (N,) uint32 0x00BBGGRR, all levels of all textures; log_sides (textures, 2) base-2
    logarithms of width and height; out (H * W * 3,) uint8 zeros.
    """
    height, width = visible.shape
    one, byte = np.float32(1), np.uint64(255)
    for row in range(height):
        y = np.float32(row)
        line = visible[row]
        end = 0
        while end < width:
            column, t = end, line[end]
            while end < width and line[end] == t:
                end += 1
            if t < 0:
                continue
            k = texture_of[source[t]]
            log_width, log_height = log_sides[k, 0], log_sides[k, 1]
            iz_x, iz_y, u_x, u_y, v_x, v_y = (planes[t, 0], planes[t, 1], planes[t, 3],
                                              planes[t, 4], planes[t, 6], planes[t, 7])
            iz_0 = iz_y * y + planes[t, 2]
            u_0 = u_y * y + planes[t, 5]
            v_0 = v_y * y + planes[t, 8]
            while column < end:
                # One mip level for up to eight pixels, from the footprint of the first: the area
                # rule with at most 4:1 anisotropy.
                stop = min(end, column + 8)
                x = np.float32(column)
                z = one / (iz_0 + iz_x * x)
                u, v = (u_0 + u_x * x) * z, (v_0 + v_x * x) * z
                size_u, size_v = np.float32(1 << log_width) * z, np.float32(1 << log_height) * z
                du_x, dv_x = (u_x - u * iz_x) * size_u, (v_x - v * iz_x) * size_v
                du_y, dv_y = (u_y - u * iz_y) * size_u, (v_y - v * iz_y) * size_v
                across, down = du_x * du_x + dv_x * dv_x, du_y * du_y + dv_y * dv_y
                longest = max(across, down)
                area2 = longest * max(min(across, down), longest * np.float32(0.0625))
                level = 0
                while area2 > np.float32(5.0625) and level < levels[k] - 1:
                    area2 *= np.float32(0.0625)
                    level += 1
                log_w, log_h = max(0, log_width - level), max(0, log_height - level)
                wrap_u, wrap_v = (1 << log_w) - 1, (1 << log_h) - 1
                scale_u, scale_v = np.float32(256 << log_w), np.float32(256 << log_h)
                offset = offsets[k, level]
                at = np.uint64((row * width + column) * 3)
                while column < stop:
                    x = np.float32(column)
                    z = one / (iz_0 + iz_x * x)
                    # eight fractional bits; texel centres are at one half
                    fixed_u = int(np.floor((u_0 + u_x * x) * z * scale_u)) - 128
                    fixed_v = int(np.floor((v_0 + v_x * x) * z * scale_v)) - 128
                    left, top = fixed_u >> 8, fixed_v >> 8
                    first = offset + ((top & wrap_v) << log_w)
                    second = offset + (((top + 1) & wrap_v) << log_w)
                    right = (left + 1) & wrap_u
                    left &= wrap_u
                    colour = _mixed(texels[np.uint64(first + left)],
                                    texels[np.uint64(first + right)],
                                    texels[np.uint64(second + left)],
                                    texels[np.uint64(second + right)],
                                    np.uint64(fixed_u & 255), np.uint64(fixed_v & 255))
                    out[at] = np.uint8(colour & byte)
                    out[at + np.uint64(1)] = np.uint8(colour >> np.uint64(8) & byte)
                    out[at + np.uint64(2)] = np.uint8(colour >> np.uint64(16))
                    at += np.uint64(3)
                    column += 1


@nb.jit(**_JIT)
def object_indices(visible, source, object_of):
    """(H, W) int32 object index per pixel, -1 where nothing was drawn."""
    out = np.empty(visible.shape, np.int32)
    for row in range(visible.shape[0]):
        for column in range(visible.shape[1]):
            t = visible[row, column]
            out[row, column] = -1 if t < 0 else object_of[source[t]]
    return out


@nb.jit(**_JIT)
def depth_of(inverse_z):
    """(H, W) float32 z in metres, 0 where nothing was drawn."""
    out = np.empty(inverse_z.shape, np.float32)
    for row in range(inverse_z.shape[0]):
        for column in range(inverse_z.shape[1]):
            iz = inverse_z[row, column]
            out[row, column] = np.float32(0) if iz == 0 else np.float32(1) / iz
    return out

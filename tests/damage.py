"""Damaged and hostile files, drawn at random: bits, sizes, headers, types and values that no writer would write."""

import io
import json
import struct
import warnings
import zipfile

import numpy as np

# What a place in a JSON file may hold instead, as text: JSON has no word for some of it.
VALUES = [
    *("null", "true", "false", "0", "-1", "1", "1.5", "-0.0", "1e308", "-1e308", "1e400", "NaN", "-Infinity", "3e-320"),
    *(
        "9007199254740993",
        "1e999999999",
        "9" * 30,
        "9" * 5000,
        '""',
        '"x"',
        '"\\ud800"',
        '"\\u0000"',
        '"' + "y" * 999 + '"',
    ),
    *("[]", "{}", "[[]]", "[null]", "[true]", "[1.5]", "[-1]", "[NaN]", '["<b>"]', "[[0, 0]]", "[0, 0]", '{"": 0}'),
    *("[" * 50_000, "[" * 500 + "]" * 500, '{"a":' * 90 + "1" + "}" * 90, '{"a": 1, "a": 2}', "[0" + ",0" * 5000 + "]"),
    *('"data:text/html,<script>x</script>"', '{"units": [["javascript:x"]], "tests": []}', "[[0, 99999]]", "[[2, 1]]"),
]
SHAPES = [
    "(9999999999, 9)",
    "(-1,)",
    "(0, 99999999999)",
    "(True,)",
    "(3, )",
    "()",
    "(2, 3,",
    "(1" + ", 1" * 40 + ")",
    "5",
]
DESCRS = [
    "'|O'",
    "'<c16'",
    "'<f2'",
    "'|S9'",
    "'<U4'",
    "'<M8[s]'",
    "[('a', '<f8')]",
    "'<f16'",
    "'|b1'",
    "'>f8'",
    "'|V8'",
    "7",
]
WHOLE = [
    b"",
    b"PK",
    b"PK\x05\x06" + bytes(18),
    b"\x93NUMPY",
    b"\x80\x04N.",
    b"[",
    b"\xff\xfe[\0]\0",
    b"\xef\xbb\xbf{}",
    b"{}",
]


def damage_bytes(content, rng):
    """Bits, bytes or stretches of a file changed, whatever they mean."""
    data, size = bytearray(content), len(content)
    first, last = sorted(rng.integers(0, size + 1, 2).tolist())
    kind = int(rng.integers(9))
    if kind == 0:
        for place in rng.integers(0, size, int(rng.integers(1, 9))).tolist():
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[first:]
    elif kind == 2:
        del data[first:last]
    elif kind == 3:
        data[first:first] = data[first:last]
    elif kind == 4:
        data[first:last] = rng.bytes(last - first)
    elif kind == 5:
        data[first : first + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\1\0\0\0"])
    elif kind == 6:
        data += rng.bytes(int(rng.integers(1, 99)))
    elif kind == 7:
        data[:first] = rng.bytes(first)
    else:
        return WHOLE[int(rng.integers(len(WHOLE)))]
    return bytes(data)


def _places(content, path=()):
    yield path
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from _places(value, (*path, key))


def damage_json(content, rng):
    """One place of a JSON file that holds something else, is missing, is there twice or changed places."""
    tree = json.loads(content)
    places = list(_places(tree))
    *above, key = ("root", *places[int(rng.integers(len(places)))])
    outer = {"root": tree}
    holder = outer
    for step in above:
        holder = holder[step]
    kind = int(rng.integers(6))
    if kind == 0 and holder is not outer:
        del holder[key]
    elif kind == 1 and isinstance(holder[key], dict):
        holder[key]["more"] = 1
    elif kind == 1 and isinstance(holder[key], list):
        holder[key] = holder[key] * 2
    elif kind == 2 and isinstance(holder, dict) and holder is not outer:
        return _dumped(outer).replace(json.dumps(key) + ":", f"{json.dumps(key)}: 1, {json.dumps(key)}:", 1).encode()
    elif kind == 3 and isinstance(holder, dict):
        other = list(holder)[int(rng.integers(len(holder)))]
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = "@@"
        return _dumped(outer).replace('"@@"', VALUES[int(rng.integers(len(VALUES)))], 1).encode()
    return _dumped(outer).encode()


def _dumped(outer):
    return json.dumps(outer["root"])


def _npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def damage_header(content, rng):
    """An array of numpy's format whose header says something else."""
    kind = int(rng.integers(6))
    length = struct.unpack("<H", content[8:10])[0]
    text, data = content[10 : 10 + length].decode("latin-1"), content[10 + length :]
    if kind == 0:
        start, end = text.index("'shape': ") + 9, text.rindex(")") + 1
        text = text[:start] + SHAPES[int(rng.integers(len(SHAPES)))] + text[end:]
    elif kind == 1:
        start, end = text.index("'descr': ") + 9, text.index(", 'fortran")
        text = text[:start] + DESCRS[int(rng.integers(len(DESCRS)))] + text[end:]
    elif kind == 2:
        text = text.replace("False", str(rng.choice(["True", "None", "1", "__import__('os')"])))
    elif kind == 3:
        text = str(rng.choice(["(" * 9000, "-" * 9000 + "1", "{}", "{'shape': (1,)}", "\xff" * 99, "lambda: 0"]))
    version = bytes(rng.choice([1, 1, 1, 2, 3, 9], 1).tolist()) + b"\0"
    size = int(rng.choice([len(text), len(text), len(text), 0, 65535, 9]))
    start = b"\x93NUMPY" + version + (struct.pack("<H", size) if version[0] == 1 else struct.pack("<I", size * 9999))
    return start + text.encode("latin-1", "replace") + data


def _other(array, rng):
    """An array of another type, shape or content."""
    kind = int(rng.integers(13))
    if kind == 0:
        return array.astype(np.complex128)
    if kind == 1:
        return array.astype(str)
    if kind == 2:
        return array.astype(object)
    if kind == 3:
        return array.astype(rng.choice(["f4", "i8", "u1", "?", ">f8", "f2"]))
    if kind == 4:
        return array[None]
    if kind == 5:
        return array.T[::-1] if array.ndim else np.float64(-1)
    if kind == 6:
        return np.concatenate([array, array]) if array.ndim else np.array(10**10)
    if kind == 7:
        return array[:0] if array.ndim else np.array(0)
    if kind == 8:
        return np.zeros(7 * 10**6 if rng.random() < 0.2 else 10**4)  # compressed, a thousandth of that
    if kind == 9:
        return np.array(rng.choice([10**12, -1, 2**62, 3]))
    if kind == 10 and array.dtype.kind == "u" and array.ndim:
        return array | np.uint8(1)
    changed = array.astype(np.float64) if kind == 11 else np.array(array)
    if changed.size:
        values = [np.nan, np.inf, -1.0, 1e308, 0.0] if kind == 11 else [0, 1, 100]
        changed.flat[int(rng.integers(changed.size))] = rng.choice(values)
    return changed


def damage_archive(content, rng):
    """An .npz file with members that are missing, exchanged, doubled, unknown, of other forms, or that lie."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    names = list(members)
    name, other = (names[int(rng.integers(len(names)))] for _ in range(2))
    kind, twice = int(rng.integers(9)), None
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name], members[other] = members[other], members[name]
    elif kind == 2:
        members[str(rng.choice(["more.npy", "more", "../up.npy", "a\0b.npy", "\U0001f600.npy"]))] = members[name]
    elif kind == 3:
        twice = members[name]
    elif kind == 4:
        members[name] = damage_bytes(members[name], rng)
    elif kind in (5, 6):
        members[name] = damage_header(members[name], rng)
    else:
        members[name] = _npy(_other(np.load(io.BytesIO(members[name])), rng))
    how = int(
        rng.choice(
            [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], p=[0.4, 0.4, 0.1, 0.1]
        )
    )
    if sum(map(len, members.values())) > 2**20:
        how = zipfile.ZIP_DEFLATED
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression=how, compresslevel=1) as file:
        for key, value in members.items():
            file.writestr(key, value)
        if twice is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the name is there already
                file.writestr(zipfile.ZipInfo(name), twice)
    data = bytearray(stream.getvalue())
    if rng.random() < 0.15:  # the directory at the end lies
        first = data.index(b"PK\1\2")
        place = int(rng.integers(first, len(data) - 4))
        data[place : place + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\1\0"])
    return bytes(data)


def damage_safetensors(content, rng):
    """A safetensors file whose header says something else."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.3:
        size = int(rng.choice([0, 1, 2**20, 2**40, 2**63, 2**64 - 1], 1)[0]) if rng.random() < 0.9 else length
        return struct.pack("<Q", size % 2**64) + header + data
    header = damage_json(header.rstrip(), rng)
    return struct.pack("<Q", len(header)) + header + data


_OF_KIND = {
    ".npz": (damage_archive, damage_archive, damage_archive, damage_bytes),
    ".npy": (damage_header, damage_bytes),
    ".json": (damage_json, damage_json, damage_json, damage_bytes),
    ".safetensors": (damage_safetensors, damage_safetensors, damage_bytes),
}


def damaged(content, suffix, rng):
    """The content of a file of this kind, damaged."""
    ways = _OF_KIND[suffix]
    return ways[int(rng.integers(len(ways)))](content, rng)

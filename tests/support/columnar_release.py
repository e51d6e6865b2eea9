"""Arrow's C structures by ctypes: moved and released as Arrow allows, with and without the GIL."""

from __future__ import annotations

import ctypes
from typing import Any


class ArrowArray(ctypes.Structure):
    pass


ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(ArrowArray))),
    ("dictionary", ctypes.POINTER(ArrowArray)),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]

# The first releases the GIL during the call, the second holds it.
_RELEASE = ctypes.CFUNCTYPE(None, ctypes.POINTER(ArrowArray))
_RELEASE_HOLDING = ctypes.PYFUNCTYPE(None, ctypes.POINTER(ArrowArray))

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]


def move(array: Any) -> ArrowArray:
    """Move an array: the original counts as released."""
    moved = ArrowArray.from_buffer_copy(array)
    array.release = None
    return moved


def take(columns: Any) -> ArrowArray:
    """Move the one array of all columns out of its capsule."""
    _, capsule = columns.__arrow_c_array__()
    return move(ArrowArray.from_address(_pointer_of(capsule, b"arrow_array")))


def take_children(array: ArrowArray) -> list[ArrowArray]:
    return [move(array.children[index].contents) for index in range(array.n_children)]


def release(array: ArrowArray, holding: bool = False) -> None:
    (_RELEASE_HOLDING if holding else _RELEASE)(array.release)(ctypes.byref(array))
    assert not array.release


def release_in_a_thread_while_the_gil_is_held(array: ArrowArray) -> None:
    """Release in a thread that Python does not know, while this thread holds the GIL and waits."""
    library: Any = ctypes.PyDLL(None)
    thread = ctypes.c_ulong()
    at = ctypes.c_void_p(array.release)
    assert library.pthread_create(ctypes.byref(thread), None, at, ctypes.byref(array)) == 0
    assert library.pthread_join(thread, None) == 0
    assert not array.release


def texts_of(array: ArrowArray) -> list[bytes]:
    """Return the values of a column of large strings."""
    offsets = ctypes.cast(array.buffers[1], ctypes.POINTER(ctypes.c_int64))
    return [
        ctypes.string_at(array.buffers[2] + offsets[row], offsets[row + 1] - offsets[row])
        for row in range(array.length)
    ]


def views_of(array: ArrowArray) -> list[bytes]:
    """Return the values of a column of string views."""
    texts = []
    for row in range(array.length):
        at = array.buffers[1] + 16 * row
        length, _, buffer, offset = (ctypes.c_int32 * 4).from_address(at)
        where = at + 4 if length <= 12 else array.buffers[2 + buffer] + offset
        texts.append(ctypes.string_at(where, length))
    return texts

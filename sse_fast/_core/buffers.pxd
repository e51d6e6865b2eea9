"""The bytes of any object with a buffer."""

from cpython.buffer cimport (
    PyBUF_FULL_RO, Py_buffer, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer,
)


cdef inline int _get_buffer(object chunk, Py_buffer* view) except -1:
    """Get the contiguous buffer of `chunk`; the caller releases it."""
    if isinstance(chunk, str):
        raise TypeError(
            "Expected bytes, got str: feed the body as it arrived, before anything decoded it "
            "(an event stream is always UTF-8)"
        )
    try:
        PyObject_GetBuffer(chunk, view, PyBUF_FULL_RO)
    except TypeError:
        raise TypeError(f"Expected a bytes-like object, got {type(chunk).__name__}") from None
    # Asked for a contiguous buffer, some exporters raise errors other than BufferError.
    if not PyBuffer_IsContiguous(view, c"C"):
        PyBuffer_Release(view)
        raise BufferError("The buffer is not contiguous: feed bytes(chunk)")
    return 0

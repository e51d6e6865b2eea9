"""The parser: bytes in any pieces to the events of the HTML standard, in Cython and in Python."""

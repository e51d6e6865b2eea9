"""The imports of `install()`, written out for freezing tools: libraries, and their replacements."""

from __future__ import annotations

from typing import Any

from sse_fast.compat._hooks import LIBRARIES

__all__ = ["load_library", "load_replacement"]


def load_library(name: str) -> Any:
    """Import and return a library.

    Args:
        name: A key of `LIBRARIES`.

    Raises:
        ImportError: The library is not installed.
    """

    def load() -> None:
        if name == "anthropic":
            import anthropic  # noqa: F401
        elif name == "cohere":
            import cohere  # noqa: F401
        elif name == "httpx2":
            import httpx2  # noqa: F401
        elif name == "httpx_sse":
            import httpx_sse  # noqa: F401
        elif name == "mistralai":
            import mistralai  # noqa: F401
        else:
            assert name == "openai", f"no branch for the library {name!r}"
            import openai  # noqa: F401

    return LIBRARIES[name].load_module(name, load)


def load_replacement(name: str) -> Any:
    """Import and return the module that defines the replacements for parts of a library.

    Args:
        name: A key of `LIBRARIES`.

    Raises:
        ImportError: The library is not installed.
        UnknownLayout: The installed version has a layout that is not known.
    """
    module: Any
    if name == "anthropic":
        import sse_fast.compat.anthropic as module
    elif name == "cohere":
        import sse_fast.compat.cohere as module
    elif name == "httpx2":
        import sse_fast.compat.httpx2 as module
    elif name == "httpx_sse":
        import sse_fast.compat.httpx_sse as module
    elif name == "mistralai":
        import sse_fast.compat.mistralai as module
    else:
        assert name == "openai", f"no branch for the library {name!r}"
        import sse_fast.compat.openai as module
    return module

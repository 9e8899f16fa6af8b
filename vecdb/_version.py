"""The version, for modules that may not import ``vecdb`` itself."""

from typing import Final

__all__ = ["__version__"]

__version__: Final = "0.1.0"

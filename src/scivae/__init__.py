"""Class-faithful interpolation and augmentation of single cells with CI-VAE."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from . import _display

if TYPE_CHECKING:
    from . import datasets, geometry, metrics, model, pl, report, stats, tl

__all__ = ["datasets", "geometry", "metrics", "model", "pl", "report", "stats", "tl"]
__version__ = version("scivae-tools")


def __getattr__(name: str) -> Any:
    # Submodules load lazily: torch alone takes seconds.
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _warn_of_namesake() -> None:
    """Warn if another project with the import name ``scivae`` is installed too."""
    try:
        other = version("scivae")
    except PackageNotFoundError:
        return
    warnings.warn(
        f"scivae-tools {__version__} (this package) and scivae {other} (another project) are both "
        "installed and overwrite each other's files; run 'pip uninstall scivae scivae-tools', then "
        "install scivae-tools again.",
        stacklevel=3,
    )


_warn_of_namesake()
_display.register()

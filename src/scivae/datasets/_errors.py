"""Errors of files and downloads."""

from __future__ import annotations


class DownloadError(OSError):
    """A file could not be downloaded. The message says which file to put where.

    Examples
    --------
    >>> from scivae.datasets import DownloadError
    >>> issubclass(DownloadError, OSError)
    True
    """


class DamagedFileError(ValueError):
    """A file is truncated, altered, or not the expected file.

    Examples
    --------
    >>> from scivae.datasets import DamagedFileError
    >>> issubclass(DamagedFileError, ValueError)
    True
    """

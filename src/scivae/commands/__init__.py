"""The commands of ``scivae``; :mod:`scivae.cli` is their entry point."""

"""What the commands of ``scivae`` do, step by step; :mod:`scivae.cli` reads their arguments."""

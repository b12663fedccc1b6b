"""Validation of user input: each error names the rule, the value, the culprit and the cure.

``arguments`` checks plain values, ``arrays`` matrices and labels, ``latent`` points and paths in
latent space, and ``tables`` AnnData objects, their columns and trends. Checks of cells against a
model's registry are in ``data.checks``.
"""

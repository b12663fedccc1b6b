"""All checks of what callers pass: rule, value, culprit and cure in one line.

``arguments`` plain values, ``arrays`` matrices and labels, ``latent`` points and paths in latent space,
``tables`` AnnData, their columns and trends. What the registry of a model asks of its cells is in
``data.checks``.
"""

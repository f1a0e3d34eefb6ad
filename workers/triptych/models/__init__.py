"""Models: where their files are, what they look like, and the tensors and tokens that come out of them.

Import the modules by name; importing this package imports nothing, so that the torch-free ones stay torch-free.
"""

"""A mixture of experts of random weights whose routing is known: for measuring experts that do not fit.

Its tokens are a walk. The embedding of token t holds a code of its own in dimensions that no block writes to, so that
every router sees it whatever experts compute, and the head of token t + 1 is the code of token t. So a greedy answer
counts on from the prompt's last token, and experts are those that the walk of the codes goes past.
"""

from triptych.models.synthetic.folder import synthetic
from triptych.models.synthetic.shape import SyntheticShape
from triptych.models.synthetic.walk import Walk

__all__ = ["SyntheticShape", "Walk", "synthetic"]

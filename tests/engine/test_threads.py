"""One pool of threads at a time."""

import torch

from triptych.engine.threads import torch_threads, use_threads
from triptych.kernels.native import team


def test_the_team_takes_the_threads_and_torch_keeps_one() -> None:
    before, team_before = torch.get_num_threads(), team.threads()
    try:
        assert use_threads(3) == 3
        assert (team.threads(), torch.get_num_threads()) == (3, 1)
        with torch_threads(2):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
        assert use_threads(None) >= 1
    finally:
        team.resize(team_before)
        torch.set_num_threads(before)
